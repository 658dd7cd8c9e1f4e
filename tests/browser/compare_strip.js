// In the page: three moments in which the strip on the screen and the server's cache status are of the same step of the
// engine. What is compared is what is drawn, what is said, and what the server counts.
async () => {
  const sum = (strip, names) => names.reduce((total, name) => total + Number(strip.dataset[name]), 0);

  const colourOf = (element, name) => {
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    context.fillStyle = getComputedStyle(element).getPropertyValue(name);
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data.slice(0, 3).join();
  };

  const cellsDrawn = (canvas) => {
    const [size, gap, pitch] = [10, 2, 17];
    const copy = new OffscreenCanvas(canvas.width, canvas.height); // reading the page's own would slow it down
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    const [hot, cold] = ["--hot", "--cold"].map((name) => colourOf(canvas, name));
    const found = { hot: 0, cold: 0 };
    for (let y = 0; y + pitch <= canvas.height; y += pitch) {
      for (let x = 0; x + size <= canvas.width; x += size + gap) {
        const data = context.getImageData(x, y, size, size).data;
        const colours = new Set();
        for (let at = 0; at < data.length; at += 4) colours.add(data.slice(at, at + 3).join());
        if (colours.has(hot)) found.hot += 1;
        else if (colours.has(cold)) found.cold += 1;
      }
    }
    return found;
  };

  const seen = (card, strip, cache) => ({
    id: card.dataset.request,
    hot: sum(strip, ["hot", "writing"]),
    cold: sum(strip, ["cold", "reading"]),
    evicted: Number(strip.dataset.evicted),
    reserved: Number(strip.dataset.reserved),
    drawn: cellsDrawn(strip.querySelector("canvas")),
    said: strip.querySelector("canvas").getAttribute("aria-label"),
    gauges: [...document.querySelectorAll("[data-model=recall] .gauge")].map((gauge) => [
      gauge.dataset.tier,
      Number(gauge.dataset.used),
    ]),
    cache,
  });

  const compared = [];
  for (let turn = 0; turn < 500 && compared.length < 3; turn += 1) {
    const cache = await (await fetch("/v1/models/recall/cache")).json();
    const card = document.querySelector(".request[data-state=running]");
    const strip = card?.querySelector(".strip[data-kind=full_attention]");
    const isSame = strip && Number(card.dataset.steps) === cache.steps;
    if (isSame && Number(strip.dataset.cold) > 0) compared.push(seen(card, strip, cache));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return compared;
};
