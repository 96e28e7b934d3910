// Keeps the page of a close job up to date until the job is finished. Without it, the page reloads.
"use strict";

(() => {
    const EVERY = 2000; // milliseconds
    const job = document.getElementById("osvi-job");
    const stale = document.getElementById("osvi-job-stale");
    const failures = document.getElementById("osvi-job-failures");
    const actions = document.getElementById("osvi-job-actions");
    const progress = document.getElementById("osvi-progress");
    const status = job.querySelector('[data-osvi="status"]');

    // Screen readers read aloud whatever changes in a status, so nothing is written there that is already shown.
    const write = (place, text) => {
        if (place.textContent !== text) {
            place.textContent = text;
        }
    };

    // A button that is pressed or has the focus stays where it is as long as nothing changes.
    const replace = (part, html) => {
        if (part.dataset.shown !== html) {
            const hadFocus = part.contains(document.activeElement);
            part.innerHTML = part.dataset.shown = html;
            if (hadFocus) {
                part.querySelector("input, button, a")?.focus();
            }
        }
    };

    let shownTitle = job.dataset.title;

    const show = (state) => {
        for (const place of job.querySelectorAll("[data-osvi]")) {
            const text = state.texts[place.dataset.osvi] || "";
            write(place, text);
            place.closest("li")?.toggleAttribute("hidden", !text);
        }
        document.title = document.title.replace(shownTitle, state.texts.title);
        shownTitle = state.texts.title;
        status.className = `osvi-status osvi-job-${state.status}`;
        replace(failures, state.failures);
        replace(actions, state.actions);
        progress.max = state.total;
        progress.value = state.done;
    };

    const look = async () => {
        try {
            const answer = await fetch(job.dataset.progress, { cache: "no-store" });
            const state = await answer.json();
            if (state.is_finished) {
                window.location.reload();
                return;
            }
            show(state);
            stale.hidden = true;
        } catch {
            stale.hidden = false;
        }
        window.setTimeout(look, EVERY);
    };

    window.setTimeout(look, EVERY);
})();
