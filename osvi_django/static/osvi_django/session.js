// Keeps the page of a session up to date: new lines, its status, and who answers the customer.
// Without it, the page shows what is new when it is loaded again.
"use strict";

(() => {
    const EVERY = 4000; // milliseconds
    const EVERY_IF_HIDDEN = 15000;
    const page = document.getElementById("osvi-session");
    const lines = document.getElementById("osvi-lines");
    const stale = document.getElementById("osvi-stale");
    const changed = document.getElementById("osvi-changed");
    const title = document.title;
    const open = ["active", "dormant"];
    let revision = "";
    let unseen = 0;
    let answers = 0;

    const isOpen = (status) => open.includes(status);

    const parsed = (html) => {
        const template = document.createElement("template");
        template.innerHTML = html.trim();
        return template.content.firstElementChild;
    };

    const isSame = (before, after) =>
        after.hasAttribute("data-version")
            ? before.dataset.version === after.dataset.version
            : before.outerHTML === after.outerHTML;

    // A text never gets another reader: if what was chosen is not possible now, nothing is.
    const choose = (radios, value) => {
        for (const radio of radios) {
            radio.checked = radio.value === value && !radio.disabled;
        }
        if (value && !radios.some((radio) => radio.checked)) {
            page.dispatchEvent(new CustomEvent("osvi:unchosen"));
        }
    };

    // What a user has chosen or typed in a part, and where the focus is, outlives its renewal.
    const renew = (part, fresh) => {
        const focused = part.contains(document.activeElement) ? document.activeElement : null;
        const chosen = part.querySelector("input:checked")?.value;
        const typed = part.querySelector("input[type=text]")?.value;
        part.replaceWith(fresh);
        choose([...fresh.querySelectorAll("input[type=radio]")], chosen);
        const field = fresh.querySelector("input[type=text]");
        if (field && typed) {
            field.value = typed;
        }
        if (focused?.name) {
            const again = `[name="${focused.name}"]`;
            (fresh.querySelector(`${again}:checked`) || fresh.querySelector(`${again}:enabled`))?.focus();
        }
    };

    const showParts = (parts) => {
        for (const [name, html] of Object.entries(parts)) {
            const part = page.querySelector(`[data-osvi-part="${name}"]`);
            const fresh = parsed(html);
            if (part && !isSame(part, fresh)) {
                renew(part, fresh);
            }
        }
    };

    const count = (number) => {
        unseen = number;
        document.title = unseen ? `(${unseen}) ${title}` : title;
    };

    const isSeen = () => !document.hidden && document.hasFocus();

    const showLines = (fresh) => {
        let added = 0;
        for (const each of fresh) {
            const line = parsed(each.html);
            const known = document.getElementById(line.id);
            if (!known) {
                lines.append(line);
                added += each.is_own ? 0 : 1;
            } else if (known.dataset.version !== line.dataset.version) {
                known.replaceWith(line);
            }
        }
        if (added && !isSeen()) {
            count(unseen + added);
        }
    };

    const showStatus = (status) => {
        if (status === page.dataset.status) {
            return;
        }
        if (isOpen(status) && isOpen(page.dataset.status)) {
            page.dataset.status = status;
            return;
        }
        // A text that is not sent yet is not taken away.
        if (document.getElementById("id_text")?.value) {
            changed.hidden = false;
        } else {
            window.location.reload();
        }
    };

    const show = (state) => {
        revision = state.revision;
        if (!state.parts) {
            return;
        }
        if (!state.is_open) {
            delete state.parts.readers; // nothing can be sent, so there is nothing to choose
        }
        showParts(state.parts);
        showLines(state.lines);
        page.dataset.last = state.last;
        page.dispatchEvent(new CustomEvent("osvi:shown"));
        showStatus(state.status);
    };

    const look = async () => {
        const before = answers;
        try {
            const query = new URLSearchParams({ since: page.dataset.last, revision });
            const answer = await fetch(`${page.dataset.live}${page.dataset.live.includes("?") ? "&" : "?"}${query}`, { cache: "no-store" });
            const state = await answer.json();
            // The answer to a form is newer than what was asked for before it.
            if (before === answers) {
                show(state);
            }
            stale.hidden = true;
        } catch {
            stale.hidden = false;
        }
        window.setTimeout(look, document.hidden ? EVERY_IF_HIDDEN : EVERY);
    };

    const copy = async (button) => {
        const source = document.getElementById(button.dataset.osviCopies);
        const text = source.value || (source.querySelector(".osvi-summary") || source).innerText;
        try {
            await navigator.clipboard.writeText(text);
        } catch {
            if (source.select) {
                source.select();
            } else {
                window.getSelection().selectAllChildren(source);
            }
            document.execCommand("copy");
        }
        button.nextElementSibling.textContent = button.dataset.copied;
    };

    for (const button of page.querySelectorAll("[data-osvi-copies]")) {
        button.hidden = false;
        button.addEventListener("click", () => copy(button));
    }
    window.addEventListener("focus", () => count(0));
    document.addEventListener("visibilitychange", () => isSeen() && count(0));
    page.addEventListener("osvi:answered", (event) => {
        answers += 1;
        show(event.detail);
    });
    window.setTimeout(look, EVERY);
})();
