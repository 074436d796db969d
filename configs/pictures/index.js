// Keys for the index of pictures: arrows move, Enter opens a picture large, n and p turn the pages.
"use strict";

(() => {
  const $ = (id) => document.getElementById(id);
  const pictures = [...document.querySelectorAll(".grid a")];
  const viewer = $("viewer");
  let current = 0; // has the focus, or gets it
  let viewed = 0; // was opened last

  function focus(place) {
    if (!(place in pictures)) return;
    pictures[current].tabIndex = -1; // one picture is reached by Tab, and the arrows move from there
    current = place;
    pictures[current].tabIndex = 0;
    if (!viewer.open) pictures[current].focus();
  }

  // The nearest picture above or below, by where the pictures are.
  function vertical(down) {
    const here = pictures[current].getBoundingClientRect();
    let best = -1;
    let least = Infinity;
    pictures.forEach((one, place) => {
      const there = one.getBoundingClientRect();
      const away = down ? there.top - here.top : here.top - there.top;
      if (away < 10) return;
      const distance = away * 1000 + Math.abs(there.left - here.left);
      if (distance < least) [best, least] = [place, distance];
    });
    return best;
  }

  function open(place) {
    if (!(place in pictures)) return;
    focus(place);
    viewed = place;
    const picture = pictures[place];
    $("viewer-image").src = picture.href;
    $("viewer-image").alt = picture.querySelector("img").alt;
    $("viewer-text").textContent = [...picture.querySelectorAll("b, span")].map((one) => one.textContent).join(" · ");
    $("viewer-file").href = picture.href;
    $("previous").disabled = place === 0;
    $("next").disabled = place === pictures.length - 1;
    if (!viewer.open) viewer.showModal();
  }

  pictures.forEach((picture, place) => {
    picture.tabIndex = place === 0 ? 0 : -1;
    picture.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // a new tab, as for any link
      event.preventDefault();
      open(place);
    });
    picture.addEventListener("focus", () => {
      if (place !== current) focus(place);
    });
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !pictures.length) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (viewer.open) {
      if (!step) return;
      event.preventDefault();
      open(current + step);
      return;
    }
    if (event.key === "n" || event.key === "p") {
      document.querySelector(`a[rel="${event.key === "n" ? "next" : "prev"}"]`)?.click();
      return;
    }
    if (!event.target.closest(".grid") && !(step && event.target === document.body)) return;
    const to = step ? current + step : event.key === "ArrowDown" ? vertical(true)
      : event.key === "ArrowUp" ? vertical(false) : event.key === "Home" ? 0
      : event.key === "End" ? pictures.length - 1 : -1;
    if (!(to in pictures)) return;
    event.preventDefault();
    focus(to);
  });

  viewer.addEventListener("close", () => focus(viewed)); // the browser has gone back to where it was opened
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
  });
  $("previous").addEventListener("click", () => open(current - 1));
  $("next").addEventListener("click", () => open(current + 1));
  $("close").addEventListener("click", () => viewer.close());
  $("keys").hidden = !pictures.length;
  if (document.querySelector("nav")) $("keys").append(", n and p turn the pages");
})();
