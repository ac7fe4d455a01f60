// A picture to paint on. The value is {image, width, height, colors: [{name, color}], start, strokes}: the address of the
// picture below, what is painted at the start, and what is painted now (an address of a PNG, or "").
const canvas = element.querySelector("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const size = element.querySelector("input[type=range]");
let color = null, erase = false, last = null, undo = [];

const chosen = () => element.querySelector("button[aria-pressed=true]");

const choose = (button) => {
  element.querySelectorAll("button[data-color]").forEach((one) => one.setAttribute("aria-pressed", one === button));
  color = button.dataset.color;
  erase = color === "erase";
};

const fill = (address) => {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!address) return Promise.resolve();
  return new Promise((done) => {
    const picture = new Image();
    picture.onload = () => { pen.drawImage(picture, 0, 0); done(); };
    picture.src = address;
  });
};

const begin = () => {
  canvas.width = props.value.width;
  canvas.height = props.value.height;
  undo = [];
  fill(props.value.start);
  const first = chosen() || element.querySelector("button[data-color]");
  if (first) choose(first);
};

const tell = () => {
  props.value = { ...props.value, strokes: canvas.toDataURL("image/png") };
  trigger("input");
};

const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
};

const draw = (from, to) => {
  pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
  pen.strokeStyle = erase ? "#000" : color;
  pen.lineWidth = Number(size.value) * canvas.width / 600;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
};

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  undo.push(canvas.toDataURL("image/png"));
  last = at(event);
  draw(last, [last[0] + 0.1, last[1]]);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = at(event);
  draw(last, next);
  last = next;
});
["pointerup", "pointercancel"].forEach((name) => canvas.addEventListener(name, () => {
  if (last) tell();
  last = null;
}));

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.color) choose(button);
  else if (button.dataset.do === "undo") fill(undo.pop()).then(tell);
  else if (button.dataset.do === "clear") { undo.push(canvas.toDataURL("image/png")); fill("").then(tell); }
});

let shown = null;
watch("value", () => {
  const now = props.value.image + props.value.start;
  if (now !== shown) begin();
  shown = now;
});
shown = props.value.image + props.value.start;
begin();
