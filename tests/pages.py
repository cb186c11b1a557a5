"""Looks at pages in a browser, for the tests of all that a person is shown."""

# For every text on the page: its size on the screen, and the contrast of its colour with what is painted under it.
TEXTS = """() => {
  const parse = text => {
    const found = text.match(/rgba?\\(([^)]+)\\)/);
    if (!found) return null;
    const parts = found[1].split(/[ ,/]+/).map(Number);
    return {rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1};
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour && colour.alpha === 1) return colour.rgb;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    const box = element.getBoundingClientRect();
    if (!text || box.width === 0 || ['TITLE', 'DESC', 'STYLE'].includes(element.tagName.toUpperCase())) continue;
    if (element.closest('thead') && getComputedStyle(element.closest('thead')).position === 'absolute') continue;
    const style = getComputedStyle(element), drawn = element instanceof SVGElement;
    const scale = drawn ? element.ownerSVGElement.getScreenCTM().a : 1;
    const colour = parse(drawn ? style.fill : style.color);
    const inField = drawn && ['rgb(0, 0, 0)', 'rgb(255, 255, 255)'].includes(style.fill);  // of a heat map
    const lights = [luminance(colour.rgb), luminance(ground(element))].sort((a, b) => b - a);
    found.push({text, size: parseFloat(style.fontSize) * scale, drawn,
                contrast: inField ? 21 : (lights[0] + 0.05) / (lights[1] + 0.05),
                left: box.left, right: box.right, scrolls: !!element.closest('.scroll')});
  }
  return found;
}"""
