"""What students really write in lab 4, and the property that says so."""

API = """
def make_app(fill):
    app = FastAPI()

    @app.post("/fill")
    async def filled(request: Request, seed: int = 0):
        {read}
        return {answer}

    return app
"""
READ = """try:
            picture = Image.open(io.BytesIO(await request.body())).convert("RGB")
        except OSError:
            raise HTTPException(422, "the body is no picture that can be read: send a PNG or a JPEG") from None
        made = await run_in_threadpool(fill, picture, seed)"""
ANSWER = 'Response(png(made), media_type="image/png")'


def api(old: str = "", new: str = "") -> str:
    """A right API, but for one thing."""
    whole = API.format(read=READ, answer=ANSWER)
    assert old in whole
    return whole.replace(old, new) if old else whole


MISTAKES: dict[tuple[str, str], str] = {
    ("4.1", "answers"): api("app.post", "app.get"),
    ("4.1", "media type"): api(', media_type="image/png"'),
    ("4.1", "picture"): api("png(made)", "png(picture)"),
    ("4.1", "seed"): api(", picture, seed)", ", picture, 0)"),
    ("4.1", "a mistake is the client's"): api("OSError", "KeyError"),  # 500
    ("4.1", "one sentence"): api('"the body is no picture that can be read: send a PNG or a JPEG"', '{"error": True}'),
    ("4.1", "seed is a number"): """
def make_app(fill):
    app = FastAPI()

    @app.post("/fill")
    async def filled(request: Request):
        try:
            picture = Image.open(io.BytesIO(await request.body())).convert("RGB")
        except OSError:
            raise HTTPException(422, "the body is no picture that can be read: send a PNG or a JPEG") from None
        seed = int(request.query_params.get("seed", 0))
        return Response(png(await run_in_threadpool(fill, picture, seed)), media_type="image/png")

    return app
""",
    ("4.1", "others go on"): api("await run_in_threadpool(fill, picture, seed)", "fill(picture, seed)"),
    ("4.1", "type"): "def make_app(fill): return fill",
    ("4.2", "room"): "def admitted(waiting, running, most): return min(1, right(waiting, running, most))",
    ("4.2", "as many as may"): "def admitted(waiting, running, most): return right(waiting, running, most - 1)",
    ("4.2", "beside those that run"): "def admitted(waiting, running, most): return right(waiting, 0, most)",
    ("4.2", "in turn"): """
def admitted(waiting, running, most):  # whoever fits
    count = 0
    for rows in waiting:
        if running == 0 or running + rows <= most:
            count, running = count + 1, running + rows
    return count
""",
    ("4.2", "too large alone"): """
def admitted(waiting, running, most):
    count = 0
    while count < len(waiting) and running + waiting[count] <= most:
        running += waiting[count]
        count += 1
    return count
""",
    ("4.2", "runs"): """
def admitted(waiting, running, most):
    count = 0
    while running == 0 or running + waiting[count] <= most:
        running += waiting[count]
        count += 1
    return count
""",
    ("4.3", "one call"): "def together(network, jobs): return [network(*job) for job in jobs]",
    ("4.3", "own level"): """
def together(network, jobs):
    return right(network, [(x, jobs[0][1][:1].expand(len(x))) for x, _ in jobs])
""",
    ("4.3", "own rows"): """
def together(network, jobs):  # cut at the right lengths, but from the end
    answer = right(network, jobs)
    whole = torch.cat(answer).flip(0) if len({len(a[0, 0]) for a in answer}) == 1 else answer
    return list(whole.split([len(x) for x, _ in jobs]))
""",
    ("4.3", "shape"): """
def together(network, jobs):  # as if each had as many rows
    x, level = (torch.cat(each) for each in zip(*jobs))
    return list(network(x, level).chunk(len(jobs)))
""",
    ("4.3", "two sizes"): """
def together(network, jobs):
    x, level = (torch.cat(each) for each in zip(*jobs))
    return list(network(x, level).split([len(x) for x, _ in jobs]))
""",
    ("4.3", "order"): """
def together(network, jobs):  # as the groups come
    answers = []
    for size in dict.fromkeys(x.shape[1:] for x, _ in jobs):
        answers += right(network, [job for job in jobs if job[0].shape[1:] == size])
    return answers
""",
    ("4.3", "nobody"): "def together(network, jobs): return right(network, jobs) if jobs else [network(*jobs[0])]",
    ("4.4", "blank line"): "def event(*of): return right(*of)[:-1]",
    ("4.4", "one event each"): 'def event(*of): return right(*of).replace("data:", "\\ndata:")',
    ("4.4", "name"): 'def event(*of): return right(*of).replace("event:", "name:")',
    ("4.4", "JSON"): 'def event(name, data, number): return f"id: {number}\\nevent: {name}\\ndata: {data}\\n\\n"',
    ("4.4", "one line of data"): """
def event(name, data, number):
    lines = json.dumps(data, indent=2).replace("\\n", "\\ndata: ")
    return f"id: {number}\\nevent: {name}\\ndata: {lines}\\n\\n"
""",
    ("4.4", "number"): "def event(name, data, number): return right(name, data, 0)",
    ("4.4", "type"): "def event(*of): return right(*of).encode()",
    ("4.5", "better"): "def gate(ours, theirs): return right(theirs, ours)",
    ("4.5", "worse"): "def gate(ours, theirs): return True",
    ("4.5", "chance"): """
def gate(ours, theirs):  # by the mean
    return len(ours) >= 100 and bool(np.isfinite(ours).all()) and bool(ours.mean() <= theirs.mean())
""",
    ("4.5", "no better is enough"): """
def gate(ours, theirs):  # wants a proof that it is better
    return len(ours) >= 100 and bool(np.isfinite(ours).all()) and interval(ours - theirs)[1] < 0
""",
    ("4.5", "same pictures"): """
def gate(ours, theirs):  # do the intervals overlap?
    return len(ours) >= 100 and bool(interval(ours)[0] <= interval(theirs)[1])
""",
    ("4.5", "enough pictures"): "def gate(ours, theirs): return bool(interval(ours - theirs)[0] <= 0)",
    ("4.5", "a number"): "def gate(ours, theirs): return len(ours) >= 100 and not interval(ours - theirs)[0] > 0",
    ("4.6", "same"): "def drift(visitors, training): return right(visitors, training + 0.01)",
    ("4.6", "apart"): """
def drift(visitors, training):  # on one side
    values = torch.cat([visitors, training]).sort().values
    here, there = (torch.searchsorted(x.sort().values, values, right=True) / len(x) for x in (visitors, training))
    distance = float((here - there).max())
    return distance, distance > 0.2
""",
    ("4.6", "not the mean"): """
def drift(visitors, training):
    distance = min(1.0, abs(float(visitors.mean() - training.mean())))
    return distance, distance > 0.2
""",
    (
        "4.6",
        "few visitors",
    ): "def drift(visitors, training): return right(visitors, training)[0], right(visitors, training)[0] > 0.2",
    ("4.6", "what matters"): """
def drift(visitors, training):
    n, m = len(visitors), len(training)
    distance = right(visitors, training)[0]
    return distance, distance > 1.63 * ((n + m) / (n * m)) ** 0.5
""",
}
