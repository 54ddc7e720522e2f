// Before anything is drawn: the light or dark that was chosen here. Not a module, so that it is at once.
try {
  const theme = localStorage.getItem("tokenstream.theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // A browser may forbid it; then it is the system's.
}
