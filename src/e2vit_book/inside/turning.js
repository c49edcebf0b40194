// One step shows the digit from its strip of pictures, the bars, the cursor in each band, and a sentence.
const {degrees, labels, sprites, names, p} = data;
const digit = root.querySelector('.e2-digit'), out = root.querySelector('output'), text = root.querySelector('.e2-text');
const says = root.querySelectorAll('.e2-says'), bars = root.querySelectorAll('.e2-bars');
const buttons = root.querySelectorAll('[data-digit]'), bands = root.querySelectorAll('.e2-band');
let d = 0, now = 0;
function show(t, playing) {
  now = t;
  const said = [], angle = degrees[t] + '\u00b0';
  digit.style.backgroundPosition = (-168 * t) + 'px 0';
  digit.setAttribute('aria-label', 'a ' + labels[d] + ' turned by ' + degrees[t] + ' degrees');
  names.forEach((name, m) => {
    const q = p[m][d][t], best = q.indexOf(Math.max(...q));
    says[m].textContent = 'says ' + best + ' (' + Math.round(q[best] / 10) + ' %)';
    said.push(name + ' ' + says[m].textContent);
    [...bars[m].children].forEach((bar, c) => {
      bar.style.height = q[c] / 10 + '%';
      bar.className = c == labels[d] ? 'e2-true' : '';
    });
  });
  root.querySelectorAll('.e2-cursor').forEach(cursor => cursor.setAttribute('x', t));
  out.textContent = angle;
  root.querySelector('input[type=range]').setAttribute('aria-valuetext', degrees[t] + ' degrees');
  text.setAttribute('aria-live', playing ? 'off' : 'polite');
  text.textContent = 'A ' + labels[d] + ' turned by ' + angle + ': ' + said.join('; ') + '.';
}
buttons.forEach(button => button.addEventListener('click', () => {
  d = +button.dataset.digit;
  digit.style.backgroundImage = 'url(' + sprites[d] + ')';
  buttons.forEach(other => other.setAttribute('aria-pressed', other == button));
  bands.forEach(band => band.style.display = band.dataset.of == d ? 'block' : 'none');
  show(now, false);
}));
