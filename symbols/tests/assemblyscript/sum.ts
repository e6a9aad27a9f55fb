// A program in AssemblyScript: its names come from the name section, its lines from a source map.
class Cell {
  constructor(public value: i32) {}
}

function weigh(cells: Array<Cell>): i32 {
  let sum = 0;
  for (let i = 0; i < cells.length; i++) {
    sum += cells[i].value;
  }
  return sum;
}

export function run(n: i32): i32 {
  const cells = new Array<Cell>();
  for (let i = 0; i < n; i++) {
    cells.push(new Cell(i));
  }
  return weigh(cells);
}
