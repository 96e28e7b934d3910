// Keeps the start page up to date, with the number of who waits in the title of the tab. Without it, the page
// has a link to reload.
"use strict";

(() => {
    const EVERY = 5000; // milliseconds
    const page = document.getElementById("osvi-chats");
    const stale = document.getElementById("osvi-chats-stale");
    const loggedOut = document.getElementById("osvi-chats-logged-out");
    const waiting = document.getElementById("osvi-waiting");
    const title = document.title;

    // Screen readers read aloud whatever changes in a status, so nothing is written there that is already shown.
    const write = (place, text) => {
        if (place.textContent !== text) {
            place.textContent = text;
        }
    };

    const count = (number) => {
        document.title = number ? `(${number}) ${title}` : title;
    };

    let rows = null;

    const show = (state) => {
        for (const place of page.querySelectorAll("[data-osvi]")) {
            const text = place.dataset.osvi === "said" ? state.said : state.counts[place.dataset.osvi];
            write(place, text);
            place.closest("li")?.classList.toggle("osvi-count-some", text !== "0");
        }
        // A link that somebody has reached by the keyboard is not taken away.
        if (waiting && rows !== state.rows && !waiting.contains(document.activeElement)) {
            waiting.innerHTML = rows = state.rows;
        }
        count(state.waiting);
    };

    const look = async () => {
        try {
            const answer = await fetch(page.dataset.counts, { cache: "no-store" });
            // After a logout, this is the login page.
            loggedOut.hidden = !answer.redirected;
            if (answer.redirected) {
                count(0);
            } else {
                show(await answer.json());
            }
            stale.hidden = true;
        } catch {
            stale.hidden = false;
        }
        window.setTimeout(look, EVERY);
    };

    count(waiting?.dataset.waiting);
    window.setTimeout(look, EVERY);
})();
