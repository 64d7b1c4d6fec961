"""Plays steps on a gateway and on the model of a session, and compares them after each."""

import json
from urllib.parse import urlencode

import anyio

from protocol.cursor import BEGINNING as BEGINNING_CURSOR
from protocol.cursor import END, Cursor
from tests.faults.clients import Client, Witness, held, message_told, streamed, turned_away
from tests.faults.session import BEGINNING, Place, Refused, Session, Turn
from tests.faults.stage import Pending, Stage, assert_problem
from tests.faults.steps import Ask, Busy, Cancel, Delete, End, History, Leave, Open, Say, Step
from tests.gateway.harness import WITHIN_S, Json, call_of
from tests.llm.scripted import Call

MAX_CLIENTS = 3
TABLES = ("turns", "message_order", "messages", "sessions")
_ROWS = (
    "SELECT t.turn, CASE WHEN t.ended_at IS NULL THEN 'open' ELSE t.status END, t.request_id,"
    " t.replaces, t.replaced_by, t.finish_reason, q.content, r.content FROM turns t"
    " JOIN messages q ON q.message_id = t.user_message_id AND q.role = 'user'"
    " LEFT JOIN messages r ON r.message_id = t.reply_message_id AND r.role = 'assistant'"
    " WHERE t.session_id = ? ORDER BY t.turn"
)


class Play:
    """One session on a gateway, step by step, beside the model of it."""

    def __init__(self, on: Stage, session_id: str, stranger_id: str) -> None:
        self.session = Session()
        self.clients: list[Client] = []
        self._id = session_id
        self._stranger_id = stranger_id
        self._on = on
        self._gateway = on.gateway
        self._left: Place = BEGINNING
        self._pending: list[Pending] = []
        self._call: Call | None = None
        self._stranger: tuple[Call, Pending] | None = None
        self._ids: dict[tuple[int, str], str] = {}

    async def play(self, step: Step) -> None:
        """Do one step, on both, and compare."""
        with anyio.fail_after(2 * WITHIN_S):
            match step:
                case Ask():
                    await self._ask(step)
                case Cancel():
                    await self._cancel(step)
                case Open():
                    await self._open(step)
                case Leave(who=who):
                    self._leave(who)
                case Say(text=text, times=times):
                    await self._say(text * times)
                case End(how=how):
                    await self._end(how)
                case Busy():
                    await self._busy()
                case History():
                    await self._history(step)
                case Delete():
                    await self._delete()
            await self._agree()

    async def finish(self) -> None:
        """Compare what is stored, delete the session and see that nothing of it is left."""
        await self._witness()
        await self.play(History("rest", None))
        assert self._gateway.rows(_ROWS, self._id) == (
            [] if self.session.deleted else self.session.rows()
        )
        await self.play(Delete())
        for table in TABLES:
            left = f"SELECT count(*) FROM {table} WHERE session_id = ?"
            assert self._gateway.rows(left, self._id) == [(0,)]
        assert self._gateway.rows("PRAGMA foreign_key_check") == []
        if self._stranger is not None:
            await self._busy()

    # Comparing

    async def _agree(self) -> None:
        for client in self.clients:
            client.follow(self.session)
        for client in self.clients:
            await client.keep_up()
            self._note_ids(client)
        if not self.clients:
            await self._witness()
        for pending in self._pending:
            await pending.check()
        self._pending = [pending for pending in self._pending if not pending.due]
        self.clients = [client for client in self.clients if not self._is_done(client)]
        open_turns = "SELECT count(*) FROM turns WHERE session_id = ? AND ended_at IS NULL"
        is_open = self.session.open_turn is not None and not self.session.deleted
        assert self._gateway.rows(open_turns, self._id) == [(int(is_open),)]

    def _note_ids(self, client: Client) -> None:
        for place, message_id in client.ids.items():
            assert self._ids.setdefault(place, message_id) == message_id

    def _is_done(self, client: Client) -> bool:
        if client.done:
            client.leave()
        return client.done

    async def _witness(self) -> None:
        """Somebody who was not there reads the whole log; nobody else knows that all is told."""
        if self.session.deleted:
            await turned_away(self._gateway, self._id)
            return
        async with self._gateway.tab(self._id, after="0.0.end") as tab:
            witness = Witness(tab, anyio.Event(), BEGINNING)
            witness.follow(self.session)
            await witness.keep_up()

    # Asking

    async def _ask(self, step: Ask) -> None:
        tab = self._tab(step.who)
        if step.via == "tab" and tab is None:
            return
        streamed_reply = step.via != "rest"
        admitted = self._stranger is None
        try:
            turn, known = self.session.ask(
                step.request, step.request_id, streamed=streamed_reply, admitted=admitted
            )
        except Refused as refused:
            await self._send_refused(step, tab, refused.code)
            return
        await self._send(step, tab, turn, known=known)
        if not known and admitted:
            await self._called(turn)

    async def _send_refused(self, step: Ask, tab: Client | None, code: str) -> None:
        if step.via == "tab" and tab is not None and tab.tab is not None:
            await tab.tab.send(**_frame(step))
            tab.expect(("refused", code, step.request_id))
        elif step.request.message is not None:
            path = "/api/chat" if step.via == "rest" else "/api/chat/stream"
            refused = await self._gateway.http.post(path, json=self._body(step))
            assert_problem(refused, code)

    async def _send(self, step: Ask, tab: Client | None, turn: Turn, *, known: bool) -> None:
        if step.via == "tab" and tab is not None and tab.tab is not None:
            await tab.tab.send(**_frame(step))
            tab.expect(("accepted", turn.number, step.request_id, known, turn.status))
        elif step.via == "rest":
            self._pending.append(self._on.post(self._body(step), turn))
        else:
            body = json.dumps(self._body(step)).encode()
            stream = streamed(self._on.app, "POST", "/api/chat/stream", body=body)
            sse, left = await held(self._on.tasks, stream)
            self.clients.append(Client(sse, left, (turn.number - 1, END), only=turn.number))

    async def _called(self, turn: Turn) -> None:
        """The model hears of the open turn, and all it has to know."""
        self._call = call = await call_of(self._on.model)
        turn.status = "running"
        assert call.path == ("/chat/stream" if turn.streamed else "/chat")
        system, *messages = [(message["role"], message["content"]) for message in call.messages]
        assert system[0] == "system"
        assert messages == self.session.prompt()
        assert call.body["max_new_tokens"] == (turn.request.max_new_tokens or 512)

    async def _cancel(self, step: Cancel) -> None:
        number = step.turn
        if number == 0:
            number = self.session.open_turn.number if self.session.open_turn else 1
        tab = self._tab(step.who)
        if step.via == "tab" and tab is None:
            return
        turn, code = None, ""
        try:
            turn = self.session.cancel(number)
        except Refused as refused:
            code = refused.code
        fields = {} if number is None else {"turn": number}
        if step.via == "tab" and tab is not None and tab.tab is not None:
            await tab.tab.send(type="cancel", request_id="c", **fields)
            tab.expect(*[("refused", code, "c")] * (turn is None))
        else:
            await self._cancel_over_rest(turn, code, fields)
        if turn is not None:
            await self._hung_up()

    async def _cancel_over_rest(self, turn: Turn | None, code: str, fields: Json) -> None:
        path = f"/api/sessions/{self._id}/cancel"
        response = await self._gateway.http.post(path, json=fields)
        if turn is None:
            assert_problem(response, code)
        else:
            assert (response.status_code, response.json()) == (202, {"turn": turn.number})

    # Reading

    async def _open(self, step: Open) -> None:
        if self.session.deleted:
            await turned_away(self._gateway, self._id)
        if self.session.deleted or len(self.clients) == MAX_CLIENTS:
            return
        after = self._left if step.after == "left" else step.after
        text = "nonsense" if after == "nonsense" else str(_cursor(after)) if after else None
        resumed = isinstance(after, tuple) and self.session.honours(after)
        place = after if isinstance(after, tuple) and resumed else self.session.joined()
        if step.via == "tab":
            tab, left = await held(self._on.tasks, self._gateway.tab(self._id, after=text))
            ready, client = tab.ready, Client(tab, left, place)
        else:
            query = urlencode({"after": text}) if text else ""
            path = f"/api/sessions/{self._id}/events"
            sse, left = await held(self._on.tasks, streamed(self._on.app, "GET", path, query=query))
            ready, client = await sse.next("ready"), Client(sse, left, place)
        greeting = (ready["created"], ready["resumed"], ready["cursor"], ready["turn"])
        assert greeting == (False, resumed, str(_cursor(place)), self._open_turn())
        self.clients.append(client)

    def _open_turn(self) -> Json | None:
        turn = self.session.open_turn
        if turn is None:
            return None
        place = {"position": 1} if turn.status == "queued" else {}
        return {"turn": turn.number, "status": turn.status, **place}

    def _leave(self, who: int) -> None:
        if self.clients:
            client = self.clients.pop(who % len(self.clients))
            self._left = client.place
            client.leave()

    async def _history(self, step: History) -> None:
        tab = self._tab(step.who)
        shown = self.session.history(step.limit, replaced=step.via == "sse")
        count = len(self.session.history(1000))
        if step.via == "tab" and tab is not None and tab.tab is not None:
            fields = {} if step.limit is None else {"limit": step.limit}
            await tab.tab.send(type="history", **fields)
            tab.expect(("history", tuple(shown), count, len(shown) == count))
            return
        query = {} if step.limit is None else {"limit": str(step.limit)}
        if step.via == "sse":
            query["include"] = "replaced"
        path = f"/api/sessions/{self._id}/messages"
        page = await self._gateway.http.get(path, params=query)
        if self.session.deleted:
            assert_problem(page, "session_not_found")
            return
        loaded = page.json()
        assert list(map(message_told, loaded["messages"])) == shown
        assert loaded["total_count"] == count
        number, offset = self.session.end
        assert loaded["cursor"] == str(_cursor((number, offset if offset == END else 0)))

    # What the model does

    async def _say(self, text: str) -> None:
        if self._call is not None and self._call.path == "/chat/stream":
            self.session.say(text)
            await self._call.say(text)

    async def _end(self, how: str) -> None:
        call, turn = self._call, self.session.open_turn
        if call is None or turn is None:
            return
        if how == "fail":
            self.session.fail()
            await (call.error("broken") if turn.streamed else call.status(500))
        elif not turn.streamed:
            self.session.say("전부 한 번에")
            self.session.complete()
            await call.answer("전부 한 번에")
        elif how == "complete":
            self.session.complete()
            await call.complete()
        else:
            await self._race(call)
        self._call = None

    async def _race(self, call: Call) -> None:
        """Whoever is told that the turn is being cancelled is told the truth."""
        path = f"/api/sessions/{self._id}/cancel"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call.complete)
            response = await self._gateway.http.post(path)
        if response.status_code == 202:
            self.session.cancel(None)
        else:
            assert_problem(response, "nothing_to_cancel")
            self.session.complete()

    async def _busy(self) -> None:
        if self._stranger is not None:
            call, pending = self._stranger
            self._stranger = None
            await call.answer("다 됐어요")
            await pending.answered.wait()
            assert pending.response is not None
            assert pending.response.json()["content"] == "다 됐어요"
            if (turn := self.session.open_turn) and not self.session.deleted:
                await self._called(turn)
        elif self.session.open_turn is None or self.session.deleted:
            body = {"session_id": self._stranger_id, "message": "나도"}
            pending = self._on.post(body, None)
            self._stranger = (await call_of(self._on.model), pending)

    async def _delete(self) -> None:
        response = await self._gateway.http.delete(f"/api/sessions/{self._id}")
        if self.session.deleted:
            assert_problem(response, "session_not_found")
            return
        assert response.status_code == 204
        self.session.deleted = True
        await self._hung_up()
        for client in self.clients:
            await client.closed()
        self.clients = []
        for pending in self._pending:
            pending.turn, pending.refused = None, "session_not_found"

    async def _hung_up(self) -> None:
        """The model is left alone at once."""
        if self._call is not None:
            await self._call.closed()
            self._call = None

    def _tab(self, who: int) -> Client | None:
        tabs = [client for client in self.clients if client.tab is not None]
        return tabs[who % len(tabs)] if tabs else None

    def _body(self, step: Ask) -> Json:
        return {**_frame(step), "session_id": self._id}


def _frame(step: Ask) -> Json:
    request = step.request
    fields = {"request_id": step.request_id, "max_new_tokens": request.max_new_tokens}
    if request.message is None:
        fields |= {"type": "regenerate", "turn": request.replaces or None}
    else:
        fields |= {"type": "chat", "message": request.message, "replaces": request.replaces}
    return {name: value for name, value in fields.items() if value is not None}


def _cursor(place: Place) -> Cursor:
    number, offset = place
    return Cursor(number, 1, offset) if number else BEGINNING_CURSOR._replace(offset=offset)
