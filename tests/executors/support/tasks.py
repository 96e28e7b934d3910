from celery import shared_task

from osvi_django.executors import run_for, tasks_for


@shared_task(ignore_result=True, acks_late=True, reject_on_worker_lost=True)
def close_sessions(job_id):
    wait = run_for(job_id)
    if wait is not None:
        close_sessions.apply_async((job_id,), countdown=wait)


def run_with_celery(job_id):
    for _ in range(tasks_for(job_id)):
        close_sessions.delay(job_id)
