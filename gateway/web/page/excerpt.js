// Where a message holds what was looked for. No document in here.

const BEFORE = 60; // characters that are shown before the first hit
const AFTER = 120; // and behind it

/**
 * Cut the part out of a message in which the words of a query stand: [{text, isHit}]. A gateway may
 * know words for the same that this browser does not; then it is the beginning, without a hit.
 */
export function excerptOf(message, query) {
  const text = message.normalize("NFC").replace(/\s+/g, " ");
  const hits = hitsIn(text, query);
  const from = Math.max(0, (hits[0]?.from ?? 0) - BEFORE);
  const end = (hits[0]?.end ?? 0) + AFTER;
  const parts = [{ text: (from ? "…" : "") + text.slice(from, hits[0]?.from ?? end), isHit: false }];
  const shown = hits.filter((hit) => hit.from < end);
  shown.forEach((hit, place) => {
    const next = shown[place + 1]?.from ?? Math.max(hit.end, end);
    parts.push({ text: text.slice(hit.from, hit.end), isHit: true });
    parts.push({ text: text.slice(hit.end, next), isHit: false });
  });
  return parts.filter((part) => part.text);
}

/** The places of all words, in order, none within another. */
function hitsIn(text, query) {
  const { folded, places } = foldedPlaces(text);
  const words = query.normalize("NFC").split(/\s+/).filter(Boolean);
  const hits = words.flatMap((word) => {
    const found = [];
    const wanted = foldedPlaces(word).folded;
    for (let at = folded.indexOf(wanted); at >= 0; at = folded.indexOf(wanted, at + wanted.length)) {
      found.push({ from: places[at], end: places[at + wanted.length] });
    }
    return found;
  });
  hits.sort((one, other) => one.from - other.from || other.end - one.end);
  let end = 0;
  return hits.filter((hit) => {
    if (hit.from < end || hit.end === hit.from) return false;
    end = hit.end;
    return true;
  });
}

/** A text without regard to case, and where in it each of its characters was: "ẞ" is two of them. */
function foldedPlaces(text) {
  let folded = "";
  const places = [];
  let at = 0;
  for (const sign of text) {
    const plain = sign.toUpperCase().toLowerCase();
    for (let unit = 0; unit < plain.length; unit += 1) places.push(at);
    folded += plain;
    at += sign.length;
  }
  return { folded, places: [...places, at] };
}
