// Runs at the end of the page: a figure takes its width from a layout that must be complete by then.
for (const source of document.querySelectorAll('script[data-for]')) {
  const figure = JSON.parse(source.textContent);
  Plotly.newPlot(source.dataset.for, figure.data, figure.layout, {displayModeBar: false, responsive: true});
}
