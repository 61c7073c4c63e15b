// The reading under the pointer, and by the arrow keys: the nearest step of the chart, in words.
(() => {
  const chart = document.getElementById("chart");
  const points = JSON.parse(document.getElementById("points").textContent);
  const reading = document.getElementById("reading");
  const cursor = document.getElementById("cursor");
  if (!chart || !points.length) return;
  let at = points.length - 1;

  const show = (index) => {
    at = Math.max(0, Math.min(points.length - 1, index));
    const [x, words] = points[at];
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.removeAttribute("visibility");
    reading.textContent = words;
  };
  const nearest = (x) => {
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle + 1; else high = middle;
    }
    return low > 0 && x - points[low - 1][0] < points[low][0] - x ? low - 1 : low;
  };
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    show(nearest((event.clientX - box.left) / box.width * chart.viewBox.baseVal.width));
  });
  chart.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -points.length, End: points.length }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    show(at + move);
  });
})();
