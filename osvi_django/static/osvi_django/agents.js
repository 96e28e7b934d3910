// Shows the filter by agent as a field that suggests agents while one types. Without it, or without the script
// of Django's autocomplete, a form finds them.
"use strict";

(() => {
    const find = document.querySelector(".osvi-find-agent");
    const choose = document.querySelector(".osvi-choose-agent");
    const $ = window.django?.jQuery;
    if (!$?.fn.select2) {
        return;
    }
    const select = choose.querySelector("select");
    const { form } = select;
    find.hidden = true;
    choose.hidden = false;
    // An empty choice is no filter.
    form.addEventListener("formdata", (event) => {
        if (!select.value) {
            event.formData.delete(select.name);
        }
    });
    $(select).on("select2:select select2:clear", () => form.requestSubmit());
})();
