// What was asked and answered, in one of the page's two modes.

import { Answer, scrollToEnd } from "./answer.js";

/** A list of turns. In a chat each request has all turns before it; a completion stands alone. */
export class Conversation {
  #list;
  #template;
  #turns = []; // {question, answer}

  constructor(list, template) {
    this.#list = list;
    this.#template = template;
  }

  get isEmpty() {
    return this.#turns.length === 0;
  }

  /** Puts a question there, and an answer to come. */
  begin(question, options) {
    const turn = this.#template.content.cloneNode(true).firstElementChild;
    turn.querySelector(".question").textContent = question;
    this.#list.append(turn);
    const answer = new Answer(turn, options);
    this.#turns.push({ question, answer });
    scrollToEnd();
    return answer;
  }

  /** Takes a turn away that came to nothing, to ask again. */
  withdraw(answer) {
    this.#turns = this.#turns.filter((turn) => turn.answer !== answer);
    answer.element.remove();
  }

  /** The chat so far, as the API wants it. A question without an answer is the last one, or void. */
  get messages() {
    return this.#turns.flatMap(({ question, answer }, place) => {
      const asked = { role: "user", content: question };
      if (place === this.#turns.length - 1) return [asked];
      return answer.text ? [asked, { role: "assistant", content: answer.text }] : [];
    });
  }

  clear() {
    this.#turns = [];
    this.#list.replaceChildren();
  }

  set shown(shown) {
    this.#list.hidden = !shown;
  }
}
