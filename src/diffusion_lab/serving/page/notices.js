/** What the page says: messages on top of it, the question for a key, and words for those who listen. */

import * as service from "./service.js";
import { kept } from "./words.js";

const $ = (id) => document.getElementById(id);

/** For those who listen: what has just happened. */
export const say = (text) => ($("say").textContent = text);

let noticeTimer = 0;

/** A message on top of the page; `seconds` counts down to its action. */
export function notify(text, { label = "", action = null, seconds = 0, kind = "error" } = {}) {
  clearInterval(noticeTimer);
  const button = $("notice-action");
  $("notice").hidden = false;
  $("notice").dataset.kind = kind;
  $("notice-text").textContent = text;
  button.hidden = action === null;
  const go = () => {
    hush();
    action();
  };
  button.onclick = go;
  let left = seconds;
  const show = () => (button.textContent = left > 0 ? `${label} (${left})` : label);
  show();
  if (seconds > 0) {
    noticeTimer = setInterval(() => {
      left -= 1;
      if (left <= 0) go();
      else show();
    }, 1000);
  }
}

export function hush() {
  clearInterval(noticeTimer);
  $("notice").hidden = true;
  $("notice-text").textContent = "";
}

/** Tells a person what went wrong, and offers `again` where that makes sense. */
export function explain(error, again) {
  if (error instanceof service.Unreachable) {
    notify(`The service does not answer.${document.body.dataset.view === "empty" ? "" : ` ${kept()}`}`, {
      label: "Try again",
      action: again,
      kind: "offline",
    });
  } else if (error instanceof service.Refused && error.status === 401) {
    askKey(again);
  } else if (error instanceof service.Refused && [429, 503].includes(error.status)) {
    const busy = error.status === 429;
    notify(busy ? "Many people are painting right now." : "The service is not ready yet.", {
      label: busy ? "Try again" : "Ask again",
      action: again,
      seconds: Math.min(60, Math.max(1, error.retryAfter ?? 5)),
      kind: "busy",
    });
  } else notify(error.message || "Something went wrong.", { label: "Try again", action: again });
}

function askKey(again) {
  $("key-wrong").hidden = service.key.get() === "";
  $("key-dialog").oncancel = () =>
    notify("This service asks for a key.", { label: "Enter it", action: () => askKey(again), kind: "key" });
  $("key-form").onsubmit = () => {
    service.key.set($("key").value.trim());
    $("key").value = "";
    again();
  };
  $("key-dialog").showModal();
}

$("notice-close").addEventListener("click", hush);
