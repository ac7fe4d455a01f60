// A Sudoku board of 81 inputs. The value is {cells: [{digit, kind, note}]}; what a person types is of the kind "typed".
const inputs = () => [...element.querySelectorAll("input")];

element.addEventListener("input", (event) => {
  const index = inputs().indexOf(event.target);
  if (index < 0) return;
  const digits = event.target.value.replace(/[^1-9]/g, "");
  const digit = digits.slice(-1);
  event.target.value = digit;
  const cells = props.value.cells.map((cell) => ({ ...cell }));
  cells[index] = { ...cells[index], digit, kind: "typed", note: digit ? "typed" : "blank" };
  props.value = { cells };
  trigger("input");
});

element.addEventListener("focusin", (event) => event.target.select && event.target.select());

element.addEventListener("keydown", (event) => {
  const index = inputs().indexOf(event.target);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -9, ArrowDown: 9 }[event.key];
  if (index < 0 || !step) return;
  event.preventDefault();
  const next = inputs()[index + step];
  if (next) next.focus();
});
