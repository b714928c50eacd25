// What gradio's components lack for who cannot see or point, mended as they appear: a caption that an image would
// repeat, a label on an element that may have none, and a table that scrolls but takes no focus.
const mend = () => {
    for (const image of document.querySelectorAll("#images button:has(.caption-label) img[alt]:not([alt=''])")) {
        image.alt = "";
    }
    for (const empty of document.querySelectorAll("div.empty[aria-label]:not([role])")) {
        empty.setAttribute("role", "img");
    }
    for (const table of document.querySelectorAll(".virtual-table-viewport:not([tabindex])")) {
        table.tabIndex = 0;
    }
};
mend();
new MutationObserver(mend).observe(document.body, {childList: true, subtree: true, attributeFilter: ["alt"]});
