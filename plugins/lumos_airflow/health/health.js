// Everything works without this. Airflow shows the page in a frame that may not lead its own
// window away: so a link is given to Airflow's router, as a click in its menu would be.
const framed = window.parent !== window;
const dark = () => window.parent.document.documentElement.classList.contains("dark");
if (framed) {
  const follow = () => { document.documentElement.dataset.theme = dark() ? "dark" : "light"; };
  follow();
  new MutationObserver(follow).observe(window.parent.document.documentElement, { attributes: true });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-airflow]");
    if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    window.parent.history.pushState({}, "", link.href);
    window.parent.dispatchEvent(new PopStateEvent("popstate", { state: {} }));
  });
}
// Not while somebody walks through the page by keyboard, or reads what was opened.
if (document.documentElement.dataset.refresh) {
  setInterval(() => {
    if (document.activeElement === document.body && !document.hidden) window.location.reload();
  }, 60000);
}
