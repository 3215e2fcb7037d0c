// Tells the value nearest to the pointer. Without this the page lacks nothing else.
for (const figure of document.querySelectorAll("figure.chart")) {
  const svg = figure.querySelector("svg"), cursor = svg.querySelector(".cursor"), output = figure.querySelector("output");
  const points = [];
  for (const line of svg.querySelectorAll("[data-values]")) {
    const pixels = line.getAttribute("d").slice(1).split("L");
    line.dataset.values.split(" ").forEach((pair, i) => {
      const [x, y] = pixels[i].split(" ").map(Number), [at, value] = pair.split(",");
      points.push({x, y, text: `${line.dataset.label}, ${svg.dataset.by} ${Number(at).toLocaleString("en")}: ${value}`});
    });
  }
  const tell = event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let nearest = null, least = Infinity;
    for (const point of points) {  // mostly along the axis: a line is steep in places
      const distance = 25 * (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) [nearest, least] = [point, distance];
    }
    if (!nearest) return;
    cursor.setAttribute("cx", nearest.x);
    cursor.setAttribute("cy", nearest.y);
    output.textContent = nearest.text;
  };
  svg.addEventListener("pointermove", tell);
  svg.addEventListener("pointerdown", tell);
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("cx", -9); output.textContent = ""; });
}
