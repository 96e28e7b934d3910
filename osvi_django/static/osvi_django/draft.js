// Shows the text that was typed in this tab for a chat that is no longer open and was not sent.
"use strict";

(() => {
    const section = document.getElementById("osvi-draft");
    const key = section.dataset.draft;

    // The browser may allow none of this; the page then shows no text.
    const stored = (work) => {
        try {
            return work(window.sessionStorage);
        } catch {
            return null;
        }
    };

    const draft = stored((storage) => JSON.parse(storage.getItem(key)));
    if (draft?.text && !document.querySelector(`[data-form="${CSS.escape(draft.once)}"]`)) {
        document.getElementById("osvi-draft-text").value = draft.text;
        section.hidden = false;
    }
    document.getElementById("osvi-draft-remove").addEventListener("click", () => {
        stored((storage) => storage.removeItem(key));
        section.hidden = true;
    });
})();
