// Wires the slider and the button of one snippet to its function show(step, playing).
const range = root.querySelector('input[type=range]'), play = root.querySelector('.e2-play');
const still = matchMedia('(prefers-reduced-motion: reduce)');
let timer = null, left = Infinity;    // steps until it stops by itself
const stop = () => { clearInterval(timer); timer = null; play.textContent = 'play'; show(+range.value, false); };
const start = () => {
  play.textContent = 'pause';
  timer = setInterval(() => {
    if (!root.isConnected) return clearInterval(timer);
    range.value = (+range.value + 1) % (+range.max + 1);
    show(+range.value, true);
    if (--left <= 0) stop();
  }, data.delay);
};
range.addEventListener('input', () => { if (timer) stop(); show(+range.value, false); });
play.addEventListener('click', () => {
  left = Infinity;
  timer ? stop() : start();
});
show(+range.value, false);
if (data.autoplay && !still.matches) {    // once around, as soon as it can be seen
  left = +range.max + 1;
  new IntersectionObserver((entries, watch) => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    watch.disconnect();
    if (!timer) start();
  }, {threshold: 0.5}).observe(root);
}
