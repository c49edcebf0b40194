// What the page and its worker share: how an image turns. Images are Float32Array, SIDE × SIDE, row by row, in [0, 1].
"use strict";

const SIDE = 28, PIXELS = SIDE * SIDE;
const STEP = 10, ANGLES = 360 / STEP;    // the angles of a trace, degrees

/** Counter-clockwise about the center, zero outside: e2vit.actions.rotate. Exact at quarter turns, bilinear between. */
function turned(image, degrees) {
  if (degrees % 90 === 0) return quarterTurned(image, ((degrees / 90) % 4 + 4) % 4);
  const out = new Float32Array(PIXELS), center = (SIDE - 1) / 2;
  const cos = Math.cos(degrees * Math.PI / 180), sin = Math.sin(degrees * Math.PI / 180);
  for (let row = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++) {
      const x = column - center, y = center - row;    // rows grow downwards
      out[row * SIDE + column] = between(image, center - (cos * y - sin * x), center + (cos * x + sin * y));
    }
  }
  return out;
}

function quarterTurned(image, times) {
  let out = Float32Array.from(image);
  for (; times > 0; times--) {
    const before = out;
    out = out.map((_, place) => before[place % SIDE * SIDE + SIDE - 1 - Math.floor(place / SIDE)]);
  }
  return out;
}

/** The image at a place between pixels. */
function between(image, row, column) {
  const top = Math.floor(row), left = Math.floor(column), down = row - top, right = column - left;
  const pixel = (r, c) => r < 0 || c < 0 || r >= SIDE || c >= SIDE ? 0 : image[r * SIDE + c];
  return (1 - down) * ((1 - right) * pixel(top, left) + right * pixel(top, left + 1))
    + down * ((1 - right) * pixel(top + 1, left) + right * pixel(top + 1, left + 1));
}

function mirrored(image) {
  return image.map((_, place) => image[place - place % SIDE + SIDE - 1 - place % SIDE]);
}

/** Moved by whole pixels until the center of its mass is that of the picture, as the digits of MNIST are. */
function centered(image) {
  let mass = 0, rows = 0, columns = 0;
  image.forEach((value, place) => {
    mass += value; rows += value * Math.floor(place / SIDE); columns += value * (place % SIDE);
  });
  if (!mass) return image;
  const down = Math.round(SIDE / 2 - rows / mass), right = Math.round(SIDE / 2 - columns / mass);
  return image.map((_, place) => between(image, Math.floor(place / SIDE) - down, place % SIDE - right));
}
