  // A picture over another one: the slider lies over both, so that mouse, finger and arrow keys move the edge.
  document.addEventListener("input", (event) => {
    if (event.target.matches(".wipe input")) event.target.parentElement.style.setProperty("--at", `${event.target.value}%`);
  });
