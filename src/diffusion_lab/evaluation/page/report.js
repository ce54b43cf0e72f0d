// The pictures: by which method, in which order, and one of them larger.
"use strict";
(() => {
  const section = document.querySelector("#looks");
  if (!section) return;
  const [by, order, dialog] = ["#of", "#order", "#look"].map((name) => document.querySelector(name));
  const title = document.querySelector("#look-title");
  const body = document.querySelector("#look-body");
  const grids = [...section.querySelectorAll(".cards")];
  const opened = new Set(); // grids of which all is shown
  let at = null; // the card that is looked at

  const made = (card) => [...card.querySelectorAll(".of")];
  const chosen = (card) => made(card).find((part) => part.dataset.of === by.value);
  const key = {
    worst: ({ rank }) => -rank,
    best: ({ rank }) => rank,
    middle: ({ rank, all }) => Math.abs(rank - (all - 1) / 2),
  };

  const arrange = () => {
    for (const grid of grids) {
      const cards = [...grid.children].map((card) => {
        const { rank, all } = chosen(card).dataset;
        return [key[order.value]({ rank: Number(rank), all: Number(all) }), card];
      });
      cards.sort(([a], [b]) => a - b);
      const first = opened.has(grid) ? Infinity : Number(grid.dataset.first);
      for (const [place, [, card]] of cards.entries()) {
        for (const part of made(card)) part.hidden = part.dataset.of !== by.value;
        card.querySelector(".card-lpips").textContent = chosen(card).dataset.said;
        card.hidden = place >= first;
        grid.append(card);
      }
      grid.nextElementSibling.hidden = cards.length <= first;
    }
  };

  const figure = (picture, text) => {
    const framed = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = text;
    framed.append(picture.cloneNode(), caption);
    return framed;
  };
  const part = (name, said, figures) => {
    const whole = document.createElement("div");
    const head = document.createElement("h3");
    const small = document.createElement("small");
    const row = document.createElement("div");
    small.textContent = said;
    head.append(name, " ", small);
    row.className = "row";
    row.append(...figures);
    whole.append(head, row);
    return whole;
  };

  const look = (card) => {
    at = card;
    const [given, truth] = [...card.querySelectorAll(".strip > img")];
    title.textContent = card.dataset.name;
    body.replaceChildren(
      part("Asked", "", [figure(given, "given"), figure(truth, "truth")]),
      ...made(card).map((of) => {
        const pictures = [...of.children];
        const last = pictures.length - 1;
        const name = (place) => (place === last ? "error" : last > 1 ? `completed, ${place + 1}` : "completed");
        return part(of.dataset.of, of.dataset.said, pictures.map((picture, place) => figure(picture, name(place))));
      }),
    );
    if (!dialog.open) dialog.showModal();
  };
  const step = (by) => {
    const cards = [...section.querySelectorAll(".look")].filter((card) => !card.closest("[hidden]"));
    look(cards[(cards.indexOf(at) + by + cards.length) % cards.length]);
  };

  for (const grid of grids) {
    grid.nextElementSibling.addEventListener("click", () => {
      const next = Number(grid.dataset.first);
      opened.add(grid);
      arrange();
      grid.children[next].focus();
    });
  }
  section.addEventListener("click", (event) => {
    const card = event.target.closest(".look");
    if (card) look(card);
  });
  document.querySelector("#look-back").addEventListener("click", () => step(-1));
  document.querySelector("#look-next").addEventListener("click", () => step(1));
  document.querySelector("#look-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", ({ key: pressed }) => {
    if (pressed === "ArrowLeft") step(-1);
    if (pressed === "ArrowRight") step(1);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  dialog.addEventListener("close", () => at?.focus());
  by.addEventListener("change", arrange);
  order.addEventListener("change", arrange);
  arrange();
})();
