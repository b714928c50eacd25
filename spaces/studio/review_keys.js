// Keys of the review: digits toggle items, y, n and c answer "looks real?", Enter and arrows move. They press the same
// buttons and boxes that a mouse would, and do nothing while a text field or another tab is in use.
if (!window.reviewKeys) {
  window.reviewKeys = true;
  let leaving = null;
  const find = (selector) => document.querySelector(selector);
  const place = () => {
    const found = /Sample (\d+) of (\d+)/.exec(find("#review-progress")?.textContent ?? "");
    return found ? { number: Number(found[1]), total: Number(found[2]) } : { number: 0, total: 0 };
  };
  const move = (selector, isMove) => {
    // marks made before the next sample is there would go to this one: keys rest until its number has changed
    if (isMove) leaving = { number: place().number, since: Date.now() };
    find(selector)?.click();
  };
  const press = (key) => {
    const { number, total } = place();
    if (/^[1-9]$/.test(key)) {
      document.querySelectorAll("#review-items input[type=checkbox]")[Number(key) - 1]?.click();
    } else if (["y", "n", "c"].includes(key)) {
      document.querySelectorAll("#review-real input[type=radio]")["ync".indexOf(key)]?.click();
    } else if (key === "Enter" || key === "ArrowRight") {
      move("#review-next", number < total && find("#review-real input:checked"));
    } else if (key === "ArrowLeft") {
      move("#review-back", number > 1);
    } else {
      return false;
    }
    return true;
  };
  const isTyping = (target) =>
    target.isContentEditable ||
    ["TEXTAREA", "SELECT"].includes(target.tagName) ||
    (target.tagName === "INPUT" && !["checkbox", "radio"].includes(target.type));
  const isLeaving = () => leaving && place().number === leaving.number && Date.now() - leaving.since < 10000;
  document.addEventListener("keydown", (event) => {
    const panel = find("#review-panel");
    if (!panel || panel.offsetParent === null || isTyping(event.target)) return;
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (event.key === "Enter" && ["BUTTON", "A", "SUMMARY"].includes(event.target.tagName)) return;
    if (isLeaving()) return event.preventDefault();
    leaving = null;
    if (press(event.key.length === 1 ? event.key.toLowerCase() : event.key)) event.preventDefault();
  }, true);
}
