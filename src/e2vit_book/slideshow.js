// Shows one of the ready-drawn pictures and says it in words.
const img = root.querySelector('img'), out = root.querySelector('output'), text = root.querySelector('.e2-text');
function show(t, playing) {
  img.src = data.pictures[t];
  img.alt = text.textContent = data.texts[t];
  out.textContent = data.steps[t];
  text.setAttribute('aria-live', playing ? 'off' : 'polite');
  root.querySelector('input[type=range]').setAttribute('aria-valuetext', data.steps[t]);
}
