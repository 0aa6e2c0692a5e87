// IPv4 on a Hilbert curve: the square of 65,536 by 65,536 addresses, 0.0.0.0 at the top left, x right, y down.
//
// As inbound_audit/drawing/hilbert.py has it; tests/system/test_page.py compares the two.

export const SIDE = 65536;

export function place(address) {
  let x = 0;
  let y = 0;
  let rest = address;
  for (let side = 1; side < SIDE; side *= 2) {
    const right = (rest >>> 1) & 1;
    const down = (rest ^ right) & 1;
    if (!down) {
      if (right) [x, y] = [side - 1 - x, side - 1 - y];
      [x, y] = [y, x];
    }
    x += side * right;
    y += side * down;
    rest >>>= 2;
  }
  return [x, y];
}

export function address(x, y) {
  let found = 0;
  for (let side = SIDE / 2; side >= 1; side /= 2) {
    const right = (x & side) > 0 ? 1 : 0;
    const down = (y & side) > 0 ? 1 : 0;
    found += side * side * ((3 * right) ^ down);
    if (!down) {
      if (right) [x, y] = [SIDE - 1 - x, SIDE - 1 - y];
      [x, y] = [y, x];
    }
  }
  return found;
}

// A prefix of an even length is a square; of an odd one, two squares side by side or one above the other.
export function box(prefix) {
  const first = parseInt(prefix.hex, 16);
  const side = 2 ** (16 - ((prefix.length + 1) >> 1));
  const [x, y] = corner(first, side);
  if (prefix.length % 2 === 0) return { x, y, w: side, h: side };
  const [x2, y2] = corner(first + side * side, side);
  const w = x === x2 ? side : 2 * side;
  return { x: Math.min(x, x2), y: Math.min(y, y2), w, h: w === side ? 2 * side : side };
}

function corner(first, side) {
  const [x, y] = place(first);
  return [x - (x % side), y - (y % side)];
}
