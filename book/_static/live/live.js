// The live page: draw or choose a digit, turn and mirror it, and see what the networks say. See worker.js and turn.js.
"use strict";

(() => {
  const base = new URL(".", document.currentScript.src);
  const runtime = new URL(document.currentScript.dataset.runtime, base).href;
  const byId = (name) => document.getElementById(`live-${name}`);
  const root = document.getElementById("live");
  if (!root) return;

  const PANELS = [
    {name: "upright ViT", model: "upright", views: 1},
    {name: "ViT", model: "vit", views: 1},
    {name: "ViT, post-hoc", model: "vit", views: 4, symmetrized: true},
    {name: "G-CNN", model: "gcnn", views: 1},
    {name: "hybrid", model: "hybrid", views: 1},
  ];
  const FIRST = 8;    // the test digit that the page begins with, a 4
  const HOLE = 12, REACH = 28;    // radii of the polar trace, for probability 0 and what 1 adds

  let image = new Float32Array(PIXELS), label = null;    // label: the true class, unknown for a drawing
  let isMirrored = false, degrees = 0, picture = 0;
  let models = {}, traces = {}, times = {}, pending = false;
  const cursor = {row: 14, column: 14};
  let worker = null;

  // ---- what the reader puts in

  function base28() {
    const placed = label === null ? centered(image) : image;
    return isMirrored ? mirrored(placed) : placed;
  }

  const isEmpty = () => image.every((value) => value === 0);

  /** A new picture is shown as it is: neither turned nor mirrored. */
  function reset() {
    degrees = 0;
    isMirrored = false;
    byId("mirror").setAttribute("aria-pressed", false);
  }

  function changed() {
    picture++;
    traces = {};
    show();
  }

  /** Draws both pictures now, and asks once a frame however many strokes come in. */
  function show() {
    paint(byId("draw"), image);
    paint(byId("seen"), turned(base28(), degrees));
    byId("shown").textContent = `${degrees}°`;
    byId("degrees").value = degrees;
    byId("degrees").setAttribute("aria-valuetext", `${degrees} degrees`);
    root.querySelectorAll(".live-hand").forEach((hand) => hand.setAttribute("transform", `rotate(${-degrees})`));
    if (root.dataset.state === "off" || root.dataset.state === "failed") return;
    if (isEmpty()) {    // nothing to classify
      buildPanels();
      byId("says").textContent = "Nothing is drawn.";
      root.dataset.state = "ready";
      return;
    }
    Object.assign(root.dataset, {state: "busy", asked: `${picture} ${degrees}`});
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      if (isEmpty()) root.dataset.state = "ready";
      else worker.postMessage({picture, image: base28(), degrees, panels: PANELS});
    });
  }

  function paint(canvas, pixels) {
    const context = canvas.getContext("2d"), drawn = context.createImageData(SIDE, SIDE);
    pixels.forEach((value, place) => {
      drawn.data.fill(Math.round(255 * value), 4 * place, 4 * place + 3);
      drawn.data[4 * place + 3] = 255;
    });
    context.putImageData(drawn, 0, 0);
  }

  function turnTo(angle) {
    degrees = (angle % 360 + 360) % 360;
    show();
  }

  /** A round brush of about the width of the strokes in MNIST. */
  function stroke(row, column, value = 1) {
    forgetDigit();
    for (let place = 0; place < PIXELS; place++) {
      const distance = Math.hypot(Math.floor(place / SIDE) - row, place % SIDE - column);
      const cover = Math.min(1, Math.max(0, 1.9 - distance));
      image[place] = value ? Math.max(image[place], cover) : Math.min(image[place], 1 - cover);
    }
  }

  function forgetDigit() {
    label = null;
    root.querySelectorAll("input[type=radio]").forEach((radio) => { radio.checked = false; });
  }

  function drawByPointer(canvas) {
    let last = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientY - box.top) / box.height * SIDE - 0.5, (event.clientX - box.left) / box.width * SIDE - 0.5];
    };
    const draw = (event) => {
      const [row, column] = at(event), [fromRow, fromColumn] = last || [row, column];
      const steps = Math.max(1, Math.ceil(2 * Math.hypot(row - fromRow, column - fromColumn)));
      for (let step = 1; step <= steps; step++) {
        stroke(fromRow + (row - fromRow) * step / steps, fromColumn + (column - fromColumn) * step / steps);
      }
      last = [row, column];
      changed();
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); draw(event); });
    canvas.addEventListener("pointermove", (event) => { if (last) draw(event); });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  }

  function drawByKeys(canvas) {
    const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
    canvas.addEventListener("focus", () => { byId("cursor").hidden = !canvas.matches(":focus-visible"); });
    canvas.addEventListener("blur", () => { byId("cursor").hidden = true; });
    canvas.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (!move && ![" ", "Enter", "Backspace", "Delete"].includes(event.key)) return;
      event.preventDefault();
      byId("cursor").hidden = false;
      if (move) {
        cursor.row = Math.min(SIDE - 1, Math.max(0, cursor.row + move[0]));
        cursor.column = Math.min(SIDE - 1, Math.max(0, cursor.column + move[1]));
      }
      const wipes = event.key === "Backspace" || event.key === "Delete", paints = !wipes && (!move || event.shiftKey);
      if (paints || wipes) {
        stroke(cursor.row, cursor.column, paints ? 1 : 0);
        changed();
      }
      byId("cursor").style.top = `${100 * cursor.row / SIDE}%`;
      byId("cursor").style.left = `${100 * cursor.column / SIDE}%`;
      byId("place").textContent = `row ${cursor.row + 1}, column ${cursor.column + 1}`
        + (paints ? ", painted" : wipes ? ", wiped" : "");
    });
  }

  /** A picture of the reader's, reduced to the size of a digit; on a bright ground, its inks are inverted. */
  async function take(file) {
    const bitmap = await createImageBitmap(file), scale = Math.min(SIDE / bitmap.width, SIDE / bitmap.height);
    const canvas = Object.assign(document.createElement("canvas"), {width: SIDE, height: SIDE});
    const context = canvas.getContext("2d"), [width, height] = [bitmap.width * scale, bitmap.height * scale];
    const whole = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
    whole.drawImage(bitmap, 0, 0, 1, 1);
    const [r, g, b] = whole.getImageData(0, 0, 1, 1).data, isBright = (r + g + b) / 3 > 127;
    context.fillStyle = isBright ? "#fff" : "#000";
    context.fillRect(0, 0, SIDE, SIDE);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
    const {data} = context.getImageData(0, 0, SIDE, SIDE);
    forgetDigit();
    image = Float32Array.from({length: PIXELS}, (_, k) => {
      const gray = (data[4 * k] + data[4 * k + 1] + data[4 * k + 2]) / 765;
      return isBright ? 1 - gray : gray;
    });
    reset();
    changed();
  }

  function takePictures() {
    const tried = (file) => take(file).catch(() => { byId("status").textContent = "This file is not a picture that the browser can read."; });
    byId("file").addEventListener("change", (event) => { if (event.target.files.length) tried(event.target.files[0]); });
    document.addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find(({type}) => type.startsWith("image/"));
      if (file) tried(file);
    });
  }

  async function offerDigits() {
    const {digits, origin} = await (await fetch(new URL("digits.json", base))).json();
    byId("digits").querySelector("legend").textContent += ` (rotated MNIST, ${origin})`;
    for (const {label: truth, index, pixels} of digits) {
      const bytes = Float32Array.from(atob(pixels), (letter) => letter.charCodeAt(0) / 255);
      const choice = document.createElement("label"), radio = document.createElement("input");
      const canvas = Object.assign(document.createElement("canvas"), {width: SIDE, height: SIDE});
      canvas.setAttribute("aria-hidden", "true");
      Object.assign(radio, {type: "radio", name: "live-digit"}).setAttribute("aria-label", `a ${truth}, test image ${index}`);
      radio.addEventListener("change", () => {
        [image, label] = [Float32Array.from(bytes), truth];
        reset();
        changed();
      });
      paint(canvas, bytes);
      choice.append(radio, canvas);
      byId("digits").append(choice);
    }
    if (isEmpty()) root.querySelectorAll("input[type=radio]")[FIRST].click();
  }

  // ---- what the networks answer

  function buildPanels() {
    const bars = "<i></i>".repeat(10), ticks = Array.from({length: 10}, (_, digit) => `<span>${digit}</span>`).join("");
    byId("panels").innerHTML = PANELS.map(({name}) => `<section class="live-panel" aria-label="${name}">
      <b>${name}</b><span class="live-answer">–</span>
      <div class="live-bars" aria-hidden="true">${bars}</div><div class="live-ticks" aria-hidden="true">${ticks}</div>
      <svg viewBox="-50 -50 100 100" role="img" aria-label="no answers yet"><circle r="${HOLE + REACH}"/>
        <circle r="${HOLE}"/><g class="live-sectors"></g><line class="live-hand" y1="-${HOLE - 2}" y2="-${HOLE + REACH}"/></svg>
      <dl><dt>over the circle</dt><dd class="live-same">–</dd><dt>a quarter turn changes</dt><dd class="live-quarter">–</dd>
      <dt>any turn changes</dt><dd class="live-any">–</dd><dt>time for an image</dt><dd class="live-time">–</dd>
      <dt>test images right</dt><dd class="live-record">–</dd></dl></section>`).join("");
    for (const {name, model, symmetrized} of PANELS) {
      const accuracy = symmetrized ? undefined : models[model]?.accuracy;    // no record of the symmetrized one
      if (accuracy) panelOf(name).querySelector(".live-record").textContent = `${(100 * accuracy).toFixed(1)} %`;
    }
  }

  const panelOf = (name) => root.querySelectorAll(".live-panel")[PANELS.findIndex((panel) => panel.name === name)];
  const best = (values) => values.indexOf(Math.max(...values));
  const percent = (value) => `${Math.round(100 * value)} %`;

  function showAnswer(name, {probabilities}) {
    const panel = panelOf(name), digit = best(probabilities);
    panel.dataset.probabilities = JSON.stringify(probabilities);
    panel.querySelector(".live-answer").textContent = `says ${digit} (${percent(probabilities[digit])})`;
    panel.querySelectorAll(".live-bars i").forEach((bar, k) => {
      bar.style.height = `${100 * probabilities[k]}%`;
      bar.className = k !== digit ? "" : label !== null && digit !== label ? "live-best live-bad" : "live-best";
    });
  }

  function noteTime(name, milliseconds) {
    const kept = times[name] = [...(times[name] || []), milliseconds].slice(-45);
    const median = [...kept].sort((a, b) => a - b)[kept.length >> 1];
    panelOf(name).querySelector(".live-time").textContent = `${median.toFixed(1)} ms`;
  }

  /** The polar trace: direction is the turn, length the probability of the answer, color whether it is the right one. */
  function showTrace(name) {
    const panel = panelOf(name), seen = traces[name], known = seen.filter(Boolean);
    const truth = label ?? (seen[0] ? best(seen[0]) : null);
    const sectors = seen.map((values, k) => values && sector(k, values, truth)).filter(Boolean);
    panel.querySelector(".live-sectors").innerHTML = sectors.join("") + runs(seen).join("");
    const same = known.filter((values) => best(values) === truth).length;
    const of = label === null ? "same as upright" : "right";
    panel.querySelector(".live-same").textContent = `${same} of ${known.length} ${of}`;
    panel.querySelector("svg").setAttribute("aria-label", `${name}: answer ${of} at ${same} of ${known.length} angles`);
    if (known.length < ANGLES) return;
    const quarter = largestChange(seen, [ANGLES / 4]), any = largestChange(seen, seen.keys());
    panel.querySelector(".live-quarter").textContent = small(quarter);
    panel.querySelector(".live-any").textContent = small(any);
    Object.assign(panel.dataset, {quarter, any});
  }

  /** The largest change of a class's probability from one angle to the angle so many steps on. */
  function largestChange(seen, steps) {
    let largest = 0;
    for (const step of steps) {
      seen.forEach((values, k) => values.forEach((value, digit) => {
        largest = Math.max(largest, Math.abs(value - seen[(k + step) % ANGLES][digit]));
      }));
    }
    return largest;
  }

  const small = (value) => value >= 0.0005 ? `${(100 * value).toFixed(1)} points` : value < 1e-5 ? "nothing" : "< 0.1 points";
  const onCircle = (radius, angle) => [-radius * Math.sin(angle), -radius * Math.cos(angle)].map((x) => x.toFixed(2));

  function sector(k, values, truth) {
    const half = Math.PI / ANGLES, angle = 2 * half * k, digit = best(values), outer = HOLE + REACH * values[digit];
    const [a, b, c, d] = [[HOLE, -half], [outer, -half], [outer, half], [HOLE, half]].map(
      ([radius, side]) => onCircle(radius, angle + side));
    return `<path class="${digit === truth ? "live-right" : "live-wrong"}" d="M${a}L${b}A${outer} ${outer} 0 0 0 ${c}L${d}`
      + `A${HOLE} ${HOLE} 0 0 1 ${a}Z"/>`;
  }

  /** The digit beside each stretch of equal answers. */
  function runs(seen) {
    const words = [];
    for (let k = 0; k < ANGLES; k++) {
      const digit = seen[k] && best(seen[k]);
      if (digit === undefined || (k && seen[k - 1] && best(seen[k - 1]) === digit)) continue;
      let last = k;
      while (seen[last + 1] && best(seen[last + 1]) === digit) last++;
      const [x, y] = onCircle(45.5, Math.PI * (k + last) / ANGLES);
      if (last - k < ANGLES - 1) words.push(`<text x="${x}" y="${y}">${digit}</text>`);
    }
    return words.length ? words : seen[0] ? [`<text x="0" y="-45.5">${best(seen[0])}</text>`] : [];
  }

  function heard({data}) {
    if (data.kind === "loaded") byId("status").textContent = `loading the networks: ${data.count} of ${data.of} are there`;
    if (data.kind === "failed") fail(data.reason);
    if (data.kind === "ready") begin(data.models);
    if (data.picture !== picture) return;    // the picture has changed since it was asked about
    if (data.kind === "answer") {
      for (const name in data.said) showAnswer(name, data.said[name]);
      root.dataset.answered = `${data.picture} ${data.degrees}`;
    }
    if (data.kind === "trace") {
      for (const name in data.said) {
        (traces[name] ||= new Array(ANGLES).fill(undefined))[data.degrees / STEP] = data.said[name].probabilities;
        noteTime(name, data.said[name].milliseconds);
        showTrace(name);
      }
    }
    if (data.kind === "idle" && !pending) settle();
  }

  function settle() {
    root.dataset.state = "ready";
    const said = PANELS.map(({name}) => `${name} ${panelOf(name).querySelector(".live-answer").textContent}, `
      + `${panelOf(name).querySelector(".live-same").textContent}`);
    byId("says").textContent = `Turned by ${degrees} degrees: ${said.join("; ")}.`;
  }

  function begin(exported) {
    byId("status").textContent = "The networks are in this page. Nothing that you draw leaves it.";
    models = exported;
    buildPanels();
    root.dataset.state = "ready";
    show();
  }

  function fail(reason) {
    root.dataset.state = "failed";
    byId("status").textContent = `The networks can't answer: ${reason}.`;
  }

  // ---- wiring

  buildPanels();
  drawByPointer(byId("draw"));
  drawByKeys(byId("draw"));
  takePictures();
  byId("degrees").addEventListener("input", (event) => turnTo(+event.target.value));
  byId("left").addEventListener("click", () => turnTo(degrees + 90));
  byId("right").addEventListener("click", () => turnTo(degrees - 90));
  byId("mirror").addEventListener("click", (event) => {
    isMirrored = !isMirrored;
    event.target.setAttribute("aria-pressed", isMirrored);
    changed();
  });
  byId("clear").addEventListener("click", () => {
    forgetDigit();
    image.fill(0);
    reset();
    changed();
  });
  byId("views").addEventListener("change", (event) => {
    PANELS.find((panel) => panel.symmetrized).views = +event.target.value;
    times = {};
    changed();
  });
  show();
  if (location.protocol === "file:") {
    fail("browsers run no networks in files; type make serve and open the page there");
    return;
  }
  offerDigits().catch(() => fail("the test digits did not load"));
  byId("status").textContent = "loading the networks …";
  worker = new Worker(new URL("worker.js", base));
  worker.onmessage = heard;
  worker.onerror = (event) => fail(event.message || "the worker did not start");
  worker.postMessage({runtime, folder: new URL("../vendor/live/", base).href, panels: PANELS});
})();
