"use strict"
// Wide tables sort by a click on a head: rising, then falling; what is missing stays at the end.
for (const table of document.querySelectorAll("table.wide")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], rows = [...body.rows]
  const text = (row, column) => row.cells[column].textContent.trim()
  const number = (words) => /^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?$/i.test(words) ? Number(words.replaceAll(",", "")) : NaN
  heads.forEach((head, column) => {
    const button = document.createElement("button")
    button.type = "button"
    button.append(...head.childNodes)
    head.append(button)
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending"
      heads.forEach((other) => other.removeAttribute("aria-sort"))
      head.setAttribute("aria-sort", falling ? "descending" : "ascending")
      const order = (a, b) => {
        const [x, y] = [text(a, column), text(b, column)]
        if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1)
        const found = number(x) - number(y)
        return (falling ? -1 : 1) * (Number.isNaN(found) ? x.localeCompare(y, undefined, { numeric: true }) : found)
      }
      body.append(...[...rows].sort(order))
    })
  })
}
// What a mark of a plot says is shown beside the pointer, and where the keyboard is.
const tip = document.createElement("div")
tip.className = "tip"
tip.hidden = true
document.body.append(tip)
for (const title of document.querySelectorAll("svg > * title, svg > title")) {
  title.parentNode.dataset.tip = title.textContent
  title.remove()
}
function say(mark, x, y) {
  tip.hidden = !mark
  if (!mark) return
  tip.textContent = mark.dataset.tip
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 8))}px`
  tip.style.top = `${Math.max(4, y - tip.offsetHeight - 12)}px`
}
addEventListener("pointermove", (event) => say(event.target.closest?.("[data-tip]"), event.clientX, event.clientY))
addEventListener("pointerdown", (event) => say(event.target.closest?.("[data-tip]"), event.clientX, event.clientY))
addEventListener("focusin", (event) => {
  const mark = event.target.querySelector?.("[data-tip]"), box = mark?.getBoundingClientRect()
  say(mark, box?.right ?? 0, box?.top ?? 0)
})
