// MathJax sets a formula when it comes near the window, and all of them before the page is printed. Its fonts must be
// there by then, or the first print has gaps.
addEventListener('load', () => setTimeout(() => document.fonts.forEach(face => face.family.startsWith('MJX') && face.load()), 1000));
