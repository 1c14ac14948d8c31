"use strict";
// Draws the t-SNE maps and shows the image under the pointer. All data is in the page.
const { sheet, maps, names } = JSON.parse(document.getElementById("maps").textContent);
const GRID = 1000, MARGIN = 16, REACH = 14;
const TEN = ["#4477aa", "#ee7733", "#228833", "#cc3366", "#aa7744", "#66ccee", "#aaaa00", "#9955bb", "#777777", "#ee99aa"];
const colour = (label) => names.length <= TEN.length ? TEN[label] : `hsl(${(label * 137.508) % 360} 60% ${45 + (label % 3) * 10}%)`;
const peek = document.getElementById("peek");
const canvases = [...document.querySelectorAll("canvas[data-map]")];
const buttons = [...document.querySelectorAll(".classes button")];
let chosen = null;

const place = (canvas, point) => {
  const side = canvas.clientWidth - 2 * MARGIN;
  return [MARGIN + point[0] / GRID * side, MARGIN + point[1] / GRID * side];
};

function draw(canvas) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(canvas.clientWidth * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const ink = getComputedStyle(document.body).color;
  const size = Math.max(1.6, canvas.clientWidth / 220);
  for (const marked of [0, 1]) {
    for (const point of maps[canvas.dataset.map].points) {
      if (point[5] !== marked) continue;
      const [x, y] = place(canvas, point);
      context.globalAlpha = chosen === null || chosen === point[2] ? 0.85 : 0.08;
      context.fillStyle = colour(point[2]);
      context.beginPath();
      context.arc(x, y, marked ? size * 1.5 : size, 0, 7);
      context.fill();
      if (marked) {
        context.strokeStyle = ink;
        context.lineWidth = 1.5;
        context.stroke();
      }
    }
  }
}

function nearest(canvas, x, y) {
  let best = null, least = REACH * REACH;
  for (const point of maps[canvas.dataset.map].points) {
    if (chosen !== null && chosen !== point[2]) continue;
    const [px, py] = place(canvas, point);
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

function look(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const point = nearest(canvas, event.clientX - box.left, event.clientY - box.top);
  peek.hidden = point === null;
  if (point === null) return;
  const [image, text] = peek.children;
  const zoom = 96 / Math.max(sheet.width, sheet.height);
  const column = point[3] % sheet.columns, row = Math.floor(point[3] / sheet.columns);
  image.style.width = `${sheet.width * zoom}px`;
  image.style.height = `${sheet.height * zoom}px`;
  image.style.backgroundImage = `url(${sheet.address})`;
  image.style.backgroundSize = `${sheet.columns * sheet.width * zoom}px ${sheet.rows * sheet.height * zoom}px`;
  image.style.backgroundPosition = `${-column * sheet.width * zoom}px ${-row * sheet.height * zoom}px`;
  text.textContent = `${names[point[2]]}${point[5] ? " · planted" : ""} · sample ${point[4]}`;
  const left = Math.min(event.clientX + 16, innerWidth - peek.offsetWidth - 8);
  const top = Math.min(event.clientY + 16, innerHeight - peek.offsetHeight - 8);
  peek.style.left = `${Math.max(8, left)}px`;
  peek.style.top = `${Math.max(8, top)}px`;
}

const drawAll = () => canvases.forEach(draw);
for (const canvas of canvases) {
  canvas.addEventListener("pointermove", (event) => look(canvas, event));
  canvas.addEventListener("pointerdown", (event) => look(canvas, event));
  canvas.addEventListener("pointerleave", (event) => { peek.hidden = event.pointerType !== "touch"; });
}
for (const button of buttons) {
  const label = Number(button.dataset.label);
  button.firstElementChild.style.background = colour(label);
  button.addEventListener("click", () => {
    chosen = chosen === label ? null : label;
    buttons.forEach((other) => other.setAttribute("aria-pressed", String(Number(other.dataset.label) === chosen)));
    drawAll();
  });
}
addEventListener("resize", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
drawAll();
