// Wires the slider and the button of one snippet to its function show(step, playing).
const range = root.querySelector('input[type=range]'), play = root.querySelector('.e2-play');
const still = matchMedia('(prefers-reduced-motion: reduce)');
let timer = null;
const stop = () => { clearInterval(timer); timer = null; play.textContent = '\u25b6 play'; show(+range.value, false); };
const start = () => {
  play.textContent = '\u23f8 pause';
  timer = setInterval(() => {
    if (!root.isConnected) return clearInterval(timer);
    range.value = (+range.value + 1) % (+range.max + 1);
    show(+range.value, true);
  }, data.delay);
};
range.addEventListener('input', () => { if (timer) stop(); show(+range.value, false); });
play.addEventListener('click', () => timer ? stop() : start());
show(+range.value, false);
if (data.autoplay && !still.matches) start();
