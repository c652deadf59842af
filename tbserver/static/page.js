// What pages do by themselves; without it they have to be loaded again, and nothing asks twice.
"use strict";

document.addEventListener("submit", (event) => {
  const words = event.target.dataset.confirm;
  if (words && !window.confirm(words)) event.preventDefault();
});

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll(".account[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll(".account[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

for (const field of document.querySelectorAll("[data-select]")) field.select();

const live = document.querySelector("[data-events]");
if (live) {
  const events = new EventSource(live.dataset.events);
  const said = document.getElementById("said");
  events.addEventListener("progress", (event) => {
    const held = live.contains(document.activeElement) ? document.activeElement.id : "";
    live.innerHTML = event.data;
    if (held) (document.getElementById(held) || live.querySelector("button"))?.focus();
    const now = live.querySelector("[data-said]").textContent;
    if (said.textContent !== now) said.textContent = now;
  });
  events.addEventListener("over", () => {
    events.close();
    location.reload();
  });
}
