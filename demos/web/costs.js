// A matrix of sliders. The value is {rows: [{name, cells: [{value, label}]}]}.
const sliders = () => [...element.querySelectorAll("input")];

const read = () => {
  const values = sliders().map((slider) => Number(slider.value));
  let i = 0;
  return {
    ...props.value,
    rows: props.value.rows.map((row) => ({
      ...row,
      cells: row.cells.map((cell) => ({ ...cell, value: values[i++].toFixed(2) })),
    })),
  };
};

let waiting = null;
const tell = () => {
  props.value = read();
  trigger("input");
};

// The number follows the slider at once; the methods follow when the slider rests for a moment.
element.addEventListener("input", (event) => {
  event.target.parentElement.querySelector("output").textContent = Number(event.target.value).toFixed(2);
  clearTimeout(waiting);
  waiting = setTimeout(tell, 120);
});
