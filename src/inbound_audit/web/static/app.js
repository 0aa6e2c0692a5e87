// Shows the events as they come.
const response = await fetch("/api/events?rows=20");
const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
for (let part = await reader.read(); !part.done; part = await reader.read()) {
  document.getElementById("look").textContent = part.value;
}
