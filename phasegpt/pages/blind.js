// The forms work without this. With it, keys press the buttons that name them in data-keys, and a vote changes only
// <main>, so that a screen reader hears what was said in the one live region and focus stays at the prompt.
"use strict";

const said = document.getElementById("said");
let waiting = false;

function say(text, wrong = false) {
  said.textContent = text;
  said.classList.toggle("wrong", wrong);
}

async function send(form, button) {
  if (waiting) return;
  waiting = true;
  try {
    const body = new URLSearchParams(new FormData(form, button));
    const answer = await fetch(form.action, { method: "POST", body });
    const text = await answer.text();
    if (!answer.ok) throw new Error(text);
    show(new DOMParser().parseFromString(text, "text/html"), answer.url);
  } catch (error) {
    const away = error instanceof TypeError;
    say(away ? "Not saved: the command has ended. Run it again, and open the address that it prints." : error.message, true);
  } finally {
    waiting = false;
  }
}

function show(page, address) {
  document.querySelector("main").replaceWith(page.querySelector("main"));
  document.title = page.title;
  history.replaceState(null, "", address);
  say(document.querySelector("main").dataset.said);
  document.querySelector("h1").focus({ preventScroll: true });
  scrollTo(0, 0);
}

addEventListener("submit", (event) => {
  event.preventDefault();
  send(event.target, event.submitter);
});

addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const key = event.key === " " ? "Space" : event.key;
  if (["Space", "Enter"].includes(key) && event.target.closest("button, a, summary")) return;
  if (document.querySelector(":popover-open") && key !== "?") return;
  const named = [...document.querySelectorAll("[data-keys]")];
  const wanted = named.find((one) => one.dataset.keys.split(" ").includes(key));
  if (!wanted) return;
  event.preventDefault();
  wanted.click();
});

document.querySelector("h1").focus({ preventScroll: true });
