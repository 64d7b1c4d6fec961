// What tests work a client with, in a page. Evaluated once: `await driver.open("phone", {…})`.
(module) => import(module).then((midm) => {
  const TYPES = ["ready", "accepted", "start", "queued", "token", "complete", "error", "reconnect"];
  const OWN = ["state", "sent", "refused", "delayed", "reset"];
  const clients = {};

  class Driven {
    heard = [];
    conversation = new midm.Conversation();
    wakes = [];
    said = {};
    isInOrder = true;

    constructor({ tokens, ...options }) {
      // A function cannot come over from the test: here is one that gives these in turn.
      this.asked = 0;
      if (tokens) options.token = async () => this.issue(tokens);
      this.chat = new midm.ChatClient(options);
      for (const type of [...TYPES, ...OWN]) {
        this.chat.addEventListener(type, ({ detail }) => this.hear(type, detail));
      }
    }

    issue(tokens) {
      const token = tokens[Math.min(this.asked, tokens.length - 1)];
      this.hear("asked", { count: ++this.asked });
      return token;
    }

    hear(type, detail) {
      if (detail.id) this.follow(type, detail);
      if (type === "reset") this.conversation.reset(detail);
      else if (TYPES.includes(type)) this.conversation.apply(detail);
      this.heard.push([type, detail]);
      for (const wake of this.wakes.splice(0)) wake();
    }

    /** The fold forgives what comes twice, or out of order; a client should need no pardon. */
    follow(type, { id, turn, content }) {
      this.isInOrder &&= !this.last || midm.compareCursors(this.last, id) < 0;
      this.last = id;
      if (type === "start") this.said[turn] = "";
      if (type === "token") this.said[turn] += content;
    }

    /** Wait for something to be heard from here on; what came before it is passed over. */
    async next(type, fields) {
      for (;;) {
        const at = this.heard.findIndex(([told, detail]) => told === type
          && Object.entries(fields).every(([name, value]) => detail[name] === value));
        if (at >= 0) return this.heard.splice(0, at + 1).at(-1)[1];
        await new Promise((resolve) => this.wakes.push(resolve));
      }
    }
  }

  globalThis.driver = {
    midm,
    clients,
    open(name, options) {
      const driven = (clients[name] = new Driven(options));
      driven.chat.connect();
    },
    call(name, method, ...given) {
      return clients[name].chat[method](...given);
    },
    next: (name, type, fields) => clients[name].next(type, fields),
    look(name) {
      const { chat, conversation, asked, isInOrder, said } = clients[name];
      const { state, sessionId, cursor, closedBy, outbox } = chat;
      const { turns, visible } = conversation;
      return { state, sessionId, cursor, closedBy, outbox, asked, isInOrder, said, turns, visible };
    },
  };
})
