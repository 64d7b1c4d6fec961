"""What a simulated model says: a few believable sentences, the same for the same messages.

The answer is in the language of the question (Korean as soon as there is Hangul in it), begins
with a label that says that it is simulated, takes up the question a little and has 30 to 80 pieces.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from llm.simulator.faults import without_directives
from llm.simulator.request import Message

Script = Callable[[Sequence[Message]], Sequence[str]]
"""The pieces of the reply to these messages; pure."""

# The ideographs that transformers' TextIteratorStreamer releases one by one.
_CHINESE = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
)
_PIECE = re.compile(f"[^ \\n{_CHINESE}]*[ \\n{_CHINESE}]|[^ \\n{_CHINESE}]+")
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")

_TOPIC_LENGTH = 24
_ENOUGH_PIECES = 32


@dataclass(frozen=True)
class _Language:
    label: str
    greeting: re.Pattern[str]
    greetings: tuple[str, ...]
    asked: str
    nth: str
    body: tuple[str, ...]
    extras: tuple[str, ...]
    closings: tuple[str, ...]


_KOREAN = _Language(
    label="[모의 응답] ",
    greeting=re.compile("안녕|반가|하이|헬로"),
    greetings=(
        "안녕하세요! 만나서 반갑습니다 😊 ",
        "안녕하세요! 무엇을 도와드릴까요? ",
        "반갑습니다! 오늘은 어떤 이야기를 나눠 볼까요? 🙂 ",
    ),
    asked='"{topic}"라고 하셨네요. ',
    nth="이 대화의 {turn}번째 질문이군요. ",
    body=(
        "저는 믿음을 흉내 내는 모의 서버라서 진짜로 생각하지는 않습니다. ",
        "그래도 글자는 실제 모델처럼 한 조각씩 흘러나옵니다. ",
        "같은 질문을 같은 순서로 하시면 언제나 같은 답이 나옵니다. ",
        "연결이 끊겼다가 다시 이어져도 이 문장은 빠짐없이 도착합니다. ",
        "다른 창에서 같은 세션을 열어 두면 거기에도 똑같이 보입니다. ",
        "답이 길어지면 중간에 멈춰 달라고 하셔도 괜찮습니다. ",
        "조금 더 자세히 물어보시면 조금 더 그럴듯하게 지어내 보겠습니다. ",
        "옛말에 '천 리 길도 한 걸음부터'라고 했지요. ",
        "한자로 쓰면 對話, 곧 마주 보고 나누는 이야기입니다. ",
        "띄어쓰기가없는긴문장은이렇게한꺼번에도착하기도합니다. ",
    ),
    extras=(
        "정리하면 이렇습니다.\n\n1. 질문을 듣습니다.\n2. 문장을 고릅니다.\n3. 조금씩 말합니다.\n\n",
        '코드로 쓰면 다음과 같습니다.\n\n```python\nprint("안녕, 세상!")\n```\n\n',
        "중요한 점은 **서두르지 않는 것**입니다 ✨ ",
    ),
    closings=(
        "진짜 답변이 필요하시면 LLM_SERVER_URL에 모델 서버의 주소를 적어 주세요.",
        "더 궁금한 점이 있으면 편하게 물어보세요 🙌",
        "이 답변은 모두 지어낸 것이니 믿지는 마세요.",
    ),
)

_ENGLISH = _Language(
    label="[simulated] ",
    greeting=re.compile(r"\b(hello|hi|hey|good (morning|evening|afternoon))\b", re.IGNORECASE),
    greetings=(
        "Hello! Nice to meet you 😊 ",
        "Hi there! How can I help? ",
        "Hello! What shall we talk about today? 🙂 ",
    ),
    asked='You said "{topic}". ',
    nth="That is question {turn} of this conversation. ",
    body=(
        "I only pretend to be a model, so none of this was really thought through. ",
        "Still, the words reach you one by one, just as a model would release them. ",
        "Ask the same things in the same order and you will get the same answer. ",
        "If your connection breaks and comes back, this sentence arrives without a gap. ",
        "Open the same session in a second tab and watch it appear there too. ",
        "You may stop me at any time; what was said until then is kept. ",
        "Ask in more detail and I will make up something more detailed. ",
        "As they say, 'a journey of a thousand miles begins with a single step'. ",
        "The Chinese word for it is 對話, literally two people answering each other. ",
        "Naïve café owners would call that good service — or so I am told. ",
    ),
    extras=(
        "In short:\n\n1. I read the question.\n2. I pick some sentences.\n3. I say them.\n\n",
        'As code it would be:\n\n```python\nprint("Hello, world!")\n```\n\n',
        "The important thing is **not to hurry** ✨ ",
    ),
    closings=(
        "For a real answer, set LLM_SERVER_URL to the address of a model server.",
        "Feel free to ask me anything else 🙌",
        "All of this is made up, so please do not rely on it.",
    ),
)


def improvised(messages: Sequence[Message]) -> tuple[str, ...]:
    """The pieces of a made-up reply; nothing where nobody asked anything, as midm does."""
    asked = [without_directives(each.content) for each in messages if each.role == "user"]
    if not asked:
        return ()
    language = _KOREAN if _HANGUL.search(asked[-1]) else _ENGLISH
    sentences = _sentences(language, asked[-1], turn=len(asked), chance=Random(_seed(messages)))
    return pieces_of(language.label + "".join(sentences))


def pieces_of(text: str) -> tuple[str, ...]:
    """The text in midm's pieces: up to each space, newline or Chinese character, then the rest."""
    return tuple(_PIECE.findall(text))


def _sentences(language: _Language, asked: str, *, turn: int, chance: Random) -> Iterator[str]:
    topic = _topic(asked)
    opening = chance.choice(language.greetings) if language.greeting.search(asked) else ""
    if topic:
        opening += language.asked.format(topic=topic)
    if turn > 1:
        opening += language.nth.format(turn=turn)
    yield opening

    said = len(pieces_of(opening))
    body = chance.sample(language.body, len(language.body))
    extra_after = chance.randrange(6)  # past the usual number of sentences: no extra at all
    for position, sentence in enumerate(body):
        if said >= _ENOUGH_PIECES:
            break
        said += len(pieces_of(sentence))
        yield sentence
        if position == extra_after:
            yield chance.choice(language.extras)
    yield chance.choice(language.closings)


def _topic(asked: str) -> str:
    line = " ".join(asked.split())
    return line if len(line) <= _TOPIC_LENGTH else line[: _TOPIC_LENGTH - 1].rstrip() + "…"


def _seed(messages: Sequence[Message]) -> int:
    # The length goes in front, so that no two different conversations feed the same bytes.
    digest = hashlib.sha256()
    for message in messages:
        for text in (message.role, without_directives(message.content)):
            encoded = text.encode("utf-8", "replace")
            digest.update(b"%d:%b" % (len(encoded), encoded))
    return int.from_bytes(digest.digest())
