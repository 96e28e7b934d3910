// While a close runs, its button says so and counts the seconds, and a second click sends nothing more.
// What is typed into a form is kept in this tab, for the page that is shown after a login.
"use strict";

(() => {
    for (const form of document.querySelectorAll("form[data-osvi-busy]")) {
        let button = null;
        let label = "";
        let timer = null;

        // A button is an input, which has a value, or an element with a text.
        const write = (text) => {
            button[button.tagName === "INPUT" ? "value" : "textContent"] = text;
        };

        form.addEventListener("submit", (event) => {
            if (timer !== null) {
                event.preventDefault();
                return;
            }
            button = event.submitter || form.querySelector('[type="submit"].default');
            label = button.tagName === "INPUT" ? button.value : button.textContent;
            const began = Date.now();
            const count = () => {
                const seconds = Math.floor((Date.now() - began) / 1000);
                write(form.dataset.osviBusy.replace("0", seconds));
            };
            count();
            timer = window.setInterval(count, 1000);
            form.setAttribute("aria-busy", "true");
        });

        // The browser shows the page as it was left if one goes back to it.
        window.addEventListener("pageshow", () => {
            if (timer === null) {
                return;
            }
            window.clearInterval(timer);
            timer = null;
            write(label);
            form.removeAttribute("aria-busy");
        });
    }

    const PREFIX = "osvi-typed:";
    const isSwitch = (field) => field.type === "checkbox";
    const isTyped = (field) => field.name && !["hidden", "submit", "button", "fieldset"].includes(field.type);
    const fieldsOf = (form) => [...form.elements].filter(isTyped);

    // The browser may allow none of this; the form then works as others do.
    const stored = (work) => {
        try {
            return work(window.sessionStorage);
        } catch {
            return null;
        }
    };

    const keep = (form, key) => {
        const typed = fieldsOf(form).map((field) => [field.name, isSwitch(field) ? field.checked : field.value]);
        stored((storage) => storage.setItem(key, JSON.stringify(Object.fromEntries(typed))));
    };

    const restore = (form, typed) => {
        for (const field of fieldsOf(form).filter((each) => each.name in typed)) {
            field[isSwitch(field) ? "checked" : "value"] = typed[field.name];
        }
    };

    const forget = () => {
        for (const key of stored((storage) => Object.keys(storage)) || []) {
            if (key.startsWith(PREFIX)) {
                stored((storage) => storage.removeItem(key));
            }
        }
    };

    for (const form of document.querySelectorAll("form[data-osvi-typed]")) {
        const key = PREFIX + form.dataset.osviTyped;
        const [navigation] = performance.getEntriesByType("navigation");
        const isShownAgain = "osviRestore" in form.dataset || (navigation && navigation.type !== "navigate");
        const typed = isShownAgain && stored((storage) => JSON.parse(storage.getItem(key)));
        forget();
        if (typed) {
            restore(form, typed);
            keep(form, key);
        }
        for (const kind of ["input", "change", "submit"]) {
            form.addEventListener(kind, () => keep(form, key));
        }
    }
})();
