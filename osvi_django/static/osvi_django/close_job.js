// Keeps the page of a close job up to date until the job is finished. Without it, the page reloads.
"use strict";

(() => {
    const EVERY = 2000; // milliseconds
    const job = document.getElementById("osvi-job");
    const stale = document.getElementById("osvi-job-stale");
    const failures = document.getElementById("osvi-job-failures");
    const progress = document.getElementById("osvi-progress");
    const status = job.querySelector('[data-osvi="status"]');

    // Screen readers read aloud whatever changes in a status, so nothing is written there that is already shown.
    const write = (place, text) => {
        if (place.textContent !== text) {
            place.textContent = text;
        }
    };

    let shown = null;

    const show = (state) => {
        for (const place of job.querySelectorAll("[data-osvi]")) {
            const text = state.texts[place.dataset.osvi] || "";
            write(place, text);
            place.closest("li")?.toggleAttribute("hidden", !text);
        }
        status.className = `osvi-status osvi-job-${state.status}`;
        if (shown !== state.failures) {
            failures.innerHTML = shown = state.failures;
        }
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
