"""Two dozen conversations like those of OSVI's agents, for the demo and for tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Agent:
    """A chat agent: its UUID at OSVI and its name."""

    uuid: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The messages of one chat session, and the summary by OSVI's AI."""

    agent: Agent
    customer_id: str
    first_name: str
    lines: tuple[str, ...]
    """In turns, the customer first."""
    summary: str
    status: str = "active"


SHOP = Agent("agent_Hn4kX2vQ_81Tz93LmPaRw-B_ev", "Maya, store support")
CLINIC = Agent("agent_Qz7bD5sW_20Jc64YtKfUx-N_am", "Leo, clinic reception")
BANK = Agent("agent_Vr1pM8gE_57Ho36ZdNiSy-C_ok", "Ines, card services")

CONVERSATIONS = (
    Conversation(
        agent=SHOP,
        customer_id="+15551112222",
        first_name="Alex",
        lines=(
            "Hi, when are you open?",
            "We are open Monday to Friday, 9 AM to 6 PM.",
            "And on Saturdays?",
            "We are closed on weekends, but you can order online at any time.",
        ),
        summary=(
            "The user asked about business hours. The agent confirmed hours are Monday to "
            "Friday, 9 AM to 6 PM, and pointed to the online store for weekends."
        ),
    ),
    Conversation(
        agent=SHOP,
        customer_id="+15551112301",
        first_name="Priya",
        lines=(
            "My order 48213 still has not arrived.",
            "I am sorry about that. It left our warehouse on Tuesday and is due tomorrow.",
            "Ok, I will wait one more day.",
        ),
        summary=(
            "The customer reported that order 48213 had not arrived. The agent found it in "
            "transit, due the next day. The customer agreed to wait."
        ),
    ),
    Conversation(
        agent=SHOP,
        customer_id="+15551112302",
        first_name="Jonas",
        lines=(
            "I want to return the blue jacket, it is too small.",
            "Of course. Shall I send a label, or exchange it for a larger one?",
            "Exchange it please, size L.",
            "Done: the L is reserved for you, and the label is in your inbox.",
        ),
        summary=(
            "The customer wanted to return a jacket that was too small.\n"
            "- Exchange for size L arranged\n"
            "- Return label sent by e-mail\n"
            "No refund is due."
        ),
        status="dormant",
    ),
    Conversation(
        agent=SHOP,
        customer_id="+15551112303",
        first_name="Dana",
        lines=(
            "Your checkout shows <b>undefined</b> & then stops.",
            "Thank you for telling us. Which browser do you use?",
            "Firefox, on a phone.",
        ),
        summary=(
            'The customer reported that the checkout shows "<b>undefined</b>" & stops, in '
            "Firefox on a phone (total > 100 & coupon <SPRING>). The agent forwarded it to the "
            "web team."
        ),
    ),
    Conversation(
        agent=SHOP,
        customer_id="+15551112304",
        first_name="Haruto",
        lines=(
            "日本への送料はいくらですか。",
            "5,000円以上のご注文は送料無料です 🎉",
            "ありがとう。",
        ),
        summary=(
            "お客様は日本への送料について質問しました。"
            "エージェントは5,000円以上で送料無料と案内しました。お客様は満足しています 😊🎉"
        ),
    ),
    Conversation(
        agent=SHOP,
        customer_id="+15551112305",
        first_name="Marta",
        lines=(
            "Can I still add a gift card to order 48377?",
            "It is being packed already. I can place a second order, shipping is free.",
            "No, leave it.",
        ),
        summary=(
            "The customer wanted to add a gift card to order 48377, which was already being "
            "packed. A second order with free shipping was offered and declined."
        ),
        status="dormant",
    ),
    Conversation(
        agent=SHOP,
        customer_id="+15551112306",
        first_name="Owen",
        lines=(
            "The mug came broken.",
            "I am sorry! Could you send a photo?",
            "Sent.",
            "Thank you. A new one is on its way, you need not return the pieces.",
        ),
        summary=(
            "The customer received a broken mug and sent a photo. The agent ordered a free "
            "replacement; no return is needed."
        ),
    ),
    Conversation(
        agent=SHOP,
        customer_id="+15551112307",
        first_name="Selin",
        lines=(
            "Do you price match?",
            "We do, within 14 days and for the same model. Where did you see it?",
            "I will look it up and come back.",
        ),
        summary=(
            "The customer asked about price matching. The agent explained the 14-day rule. The "
            "customer will come back with the other offer."
        ),
        status="dormant",
    ),
    Conversation(
        agent=CLINIC,
        customer_id="+15551112308",
        first_name="Ruth",
        lines=(
            "I need to move my appointment on Thursday.",
            "Dr. Osei has Friday at 10:20 or Monday at 8:40.",
            "Monday.",
            "You are booked for Monday, 8:40. You will get a text message.",
        ),
        summary=(
            "The patient moved a Thursday appointment with Dr. Osei to Monday, 8:40. A "
            "confirmation was sent by text message."
        ),
    ),
    Conversation(
        agent=CLINIC,
        customer_id="+15551112309",
        first_name="Tomasz",
        lines=(
            "Do I have to fast before the blood test?",
            "Yes, for 8 hours. Water is fine.",
        ),
        summary=(
            "The patient asked how to prepare for a blood test. The agent answered: fast for 8 "
            "hours, water is allowed."
        ),
    ),
    Conversation(
        agent=CLINIC,
        customer_id="+15551112310",
        first_name="Aisha",
        lines=(
            "Do you take patients without insurance?",
            "We do. A first visit costs 90 dollars, and you can pay in three parts.",
            "Good to know, thanks.",
        ),
        summary=(
            "The user asked whether patients without insurance are accepted. The agent named "
            "the price of a first visit, 90 dollars, payable in three parts. No appointment was"
            " made."
        ),
        status="dormant",
    ),
    Conversation(
        agent=CLINIC,
        customer_id="+15551112311",
        first_name="Bruno",
        lines=(
            "My son has a fever of 39.5 since yesterday.",
            "I am getting a nurse. If he is hard to wake, please call emergency services.",
            "He drinks and talks, ok.",
        ),
        summary=(
            "A parent reported a child's fever of 39.5 °C since the day before. The agent named"
            " warning signs and asked for a nurse.\n"
            "\n"
            "Follow-up: a nurse should call back today."
        ),
    ),
    Conversation(
        agent=CLINIC,
        customer_id="+15551112312",
        first_name="Lucía",
        lines=(
            "¿Puedo pedir una receta por aquí?",
            "Sí. ¿Qué medicamento y qué dosis toma?",
            "Levotiroxina, 50 microgramos.",
        ),
        summary=(
            "La paciente pidió renovar la receta de levotiroxina (50 µg). El agente pasó la "
            "petición al médico; la respuesta llega en 24 horas."
        ),
    ),
    Conversation(
        agent=CLINIC,
        customer_id="+15551112313",
        first_name="Kwame",
        lines=(
            "Where can I park?",
            "Behind the building, two hours are free.",
        ),
        summary="The patient asked about parking: behind the building, two hours free.",
        status="dormant",
    ),
    Conversation(
        agent=CLINIC,
        customer_id="+15551112314",
        first_name="Ingrid",
        lines=(
            "Please cancel everything, I am moving away.",
            "I cancelled two appointments. Shall we send your records to your new doctor?",
            "Yes, I will mail you the address.",
        ),
        summary=(
            "The patient is moving away. Two appointments were cancelled. The records are to be"
            " sent to the new doctor once the address is known."
        ),
    ),
    Conversation(
        agent=CLINIC,
        customer_id="+15551112315",
        first_name="आरव",
        lines=(
            "क्या रविवार को क्लिनिक खुला है?",
            "नहीं, रविवार को बंद रहता है। सोमवार सुबह 8 बजे से खुला है।",
        ),
        summary="रोगी ने रविवार के समय के बारे में पूछा। एजेंट ने बताया कि क्लिनिक सोमवार सुबह 8 बजे खुलता है।",
    ),
    Conversation(
        agent=BANK,
        customer_id="+15551112316",
        first_name="Grace",
        lines=(
            "I lost my card!",
            "I have blocked it. Was there any payment you do not know?",
            "No, all fine.",
            "A new card arrives in three to five days.",
        ),
        summary=(
            "The customer lost a card. It was blocked at once, no unknown payments were found, "
            "and a new card arrives in three to five days."
        ),
    ),
    Conversation(
        agent=BANK,
        customer_id="+15551112317",
        first_name="Nikolai",
        lines=(
            "There is a payment of 42.90 that is not mine.",
            "I see it, made on Sunday. Shall I open a dispute?",
            "Yes.",
        ),
        summary=(
            "The customer disputed a payment of 42.90 made on Sunday. A dispute was opened; the"
            " amount is credited until it is decided."
        ),
    ),
    Conversation(
        agent=BANK,
        customer_id="+15551112318",
        first_name="Chloé",
        lines=(
            "Can I use my card in Morocco?",
            "Yes, once you allow it in the app under Travel.",
            "Found it, merci.",
        ),
        summary=(
            "The customer asked about using the card in Morocco and switched on travel use in "
            "the app during the chat."
        ),
        status="dormant",
    ),
    Conversation(
        agent=BANK,
        customer_id="+15551112319",
        first_name="Samir",
        lines=(
            "How do I raise my limit?",
            "I can raise it to 3,000 now, more needs a document on your income.",
            "3,000 is enough.",
        ),
        summary="The customer's card limit was raised to 3,000. No document was needed.",
    ),
    Conversation(
        agent=BANK,
        customer_id="+15551112320",
        first_name="Emma",
        lines=(
            "Why was my card declined today?",
            "The PIN was wrong three times. I have reset the counter.",
            "Ah. Thanks.",
        ),
        summary=(
            "The customer's card was declined after three wrong PINs. The agent reset the "
            "counter; the card works again."
        ),
        status="dormant",
    ),
    Conversation(
        agent=BANK,
        customer_id="+15551112321",
        first_name="Pedro",
        lines=(
            "I want to talk to a person.",
            "Of course. May I tell my colleague what it is about?",
            "A mortgage.",
        ),
        summary=(
            "The customer asked for a human about a mortgage. The agent offered a call-back; "
            "none was agreed before the chat ended."
        ),
    ),
    Conversation(
        agent=BANK,
        customer_id="+15551112322",
        first_name="Yuki",
        lines=(
            "Is the fee for the gold card yearly?",
            "Yes, 95 a year, and none in the first.",
            "Then please upgrade me.",
            "Done. The new card arrives within a week.",
        ),
        summary=(
            "The customer asked about the gold card's fee (95 a year, none in the first) and "
            "was upgraded. The new card arrives within a week."
        ),
    ),
    Conversation(
        agent=BANK,
        customer_id="+15551112323",
        first_name="Fatima",
        lines=(
            "Hello?",
            "Hello Fatima, how can I help you?",
        ),
        summary="The customer greeted the agent and did not continue.",
        status="dormant",
    ),
)
