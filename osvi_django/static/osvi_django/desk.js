// Sends the forms of a session's desk without leaving the page, and keeps what is typed in this tab
// until the site has confirmed that it was sent. Without it, the forms work as others do.
"use strict";

(() => {
    const page = document.getElementById("osvi-session");
    const form = document.getElementById("osvi-desk");
    const notice = document.getElementById("osvi-notice");
    const key = form.dataset.draft;
    let isSending = false;

    const part = (name) => form.querySelector(`[data-osvi-part="${name}"]`);
    const text = () => document.getElementById("id_text");
    const sender = () => form.querySelector(".osvi-send button");
    const chosen = () => form.querySelector("input[name=to]:checked");

    const drafts = {
        read() {
            try {
                return JSON.parse(window.sessionStorage.getItem(key)) || {};
            } catch {
                return {};
            }
        },
        write() {
            const once = form.elements.once.value;
            const draft = { text: text().value, to: chosen()?.value, once };
            try {
                if (draft.text) {
                    window.sessionStorage.setItem(key, JSON.stringify(draft));
                } else {
                    window.sessionStorage.removeItem(key);
                }
            } catch {
                // The browser keeps nothing: the text is there as long as the page is.
            }
        },
    };

    const say = (words, { level = "warning", link = "", url = "", html = "" } = {}) => {
        const line = document.createElement("p");
        line.className = `osvi-said osvi-said-${level}`;
        if (html) {
            line.innerHTML = html; // the site has escaped all but its own links
        } else {
            line.textContent = words;
        }
        if (link) {
            const anchor = document.createElement("a");
            anchor.href = url;
            anchor.textContent = link;
            line.append(" ", anchor);
        }
        notice.append(line);
    };

    const name = () => {
        const button = sender();
        const choice = chosen();
        for (const way of form.querySelectorAll(".osvi-reader")) {
            way.classList.toggle("osvi-chosen", way.contains(choice));
        }
        part("composer").dataset.to = choice?.value || "";
        if (button && !isSending && !button.hasAttribute("data-osvi-asks")) {
            button.textContent = choice ? choice.dataset.button : form.dataset.send;
        }
    };

    const prepare = () => {
        for (const hint of form.querySelectorAll(".osvi-script-only")) {
            hint.hidden = false;
        }
        form.action = part("composer").dataset.url;
        name();
    };

    const restore = () => {
        const draft = drafts.read();
        const isSent = draft.once && page.querySelector(`[data-form="${CSS.escape(draft.once)}"]`);
        if (!draft.text || isSent || text().value) {
            return;
        }
        text().value = draft.text;
        for (const radio of form.querySelectorAll("input[name=to]")) {
            radio.checked = radio.value === draft.to && !radio.disabled;
        }
        say(form.dataset.restored, { level: "info" });
        if (sender() && !chosen()) {
            say(form.dataset.unchosen);
        }
    };

    const answered = (state) => {
        isSending = false;
        notice.replaceChildren();
        for (const message of state.messages) {
            say("", { level: message.level, html: message.html });
        }
        const template = document.createElement("template");
        template.innerHTML = state.composer.trim();
        part("composer").replaceWith(template.content.firstElementChild);
        prepare();
        drafts.write();
        page.dispatchEvent(new CustomEvent("osvi:answered", { detail: state }));
        text().focus();
    };

    const send = async (button) => {
        const body = new FormData(form, button);
        const label = button.textContent;
        notice.replaceChildren();
        isSending = true;
        button.textContent = form.dataset.sending;
        try {
            const answer = await fetch(form.action, {
                method: "POST",
                body,
                headers: { "X-OSVI-Script": "1" },
            });
            const isState = (answer.headers.get("Content-Type") || "").includes("json");
            if (isState && answer.ok) {
                answered(await answer.json());
                return;
            }
            if (answer.status === 403) {
                say(form.dataset.refused);
            } else if (answer.ok && answer.redirected) {
                say(form.dataset.loggedOut, { link: form.dataset.logIn, url: answer.url });
            } else {
                say(form.dataset.unknown);
            }
        } catch {
            say(form.dataset.unknown);
        } finally {
            isSending = false;
            if (button.isConnected) {
                button.textContent = label;
            }
        }
    };

    form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (!isSending) {
            drafts.write();
            send(event.submitter || sender());
        }
    });
    form.addEventListener("input", () => {
        drafts.write();
        name();
    });
    form.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) {
            return;
        }
        event.preventDefault();
        form.requestSubmit(sender());
    });
    page.addEventListener("osvi:unchosen", () => {
        say(form.dataset.unchosen);
        drafts.write();
    });
    // What the user may have read: the server asks before a text is sent that came later.
    page.addEventListener("osvi:shown", () => {
        if (!document.hidden) {
            form.elements.seen.value = page.dataset.last;
        }
        name();
    });
    document.addEventListener("visibilitychange", () => {
        if (!document.hidden) {
            form.elements.seen.value = page.dataset.last;
        }
    });
    restore();
    prepare();
    drafts.write();
})();
