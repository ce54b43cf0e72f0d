"""What lab 4 asks: an API, a queue, shared network calls, a stream, a gate and a watch on what comes in."""

import asyncio
import io
import json
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import UnionType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from diffusion_lab.labs.grading import Exercise, Property, Unfit, Unwritten, close, normal, number, several
from diffusion_lab.pictures import png


def expected(kind: type | UnionType, given: object, en: str, vi: str) -> None:
    """Says it where a function gave something of another kind.

    Raises:
        Unwritten: if it gave None.
        Unfit: in that case.
    """
    if given is None:
        raise Unwritten
    if not isinstance(given, kind):
        what = type(given).__name__
        raise Unfit(Property("type", False, f"{en}, got {what}", f"{vi}, nhưng nhận được {what}"))


def on_a_loop() -> bool:
    """Whether this thread runs an event loop, which waits for us."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def posted(app: Any, url: str, body: bytes) -> Any:
    """What an app of FastAPI answers, an `httpx.Response`.

    In a thread with an event loop of its own, since a notebook runs one already; as a daemon, since a student's handler
    may never end.
    """
    from httpx import ASGITransport, AsyncClient  # here, so that the other labs do without the service's packages

    outcome: list[Any] = []

    async def ask() -> Any:
        transport = ASGITransport(app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://labs") as client:
            return await client.post(url, content=body)

    def run() -> None:
        try:
            outcome.append(asyncio.run(ask()))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def an_api(make_app: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """4.1: a picture in, a picture out, and one sentence for a mistake."""
    from fastapi import FastAPI  # here, as above

    asked: list[tuple[int, bool]] = []

    def flipped(picture: Image.Image) -> Image.Image:
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def fill(picture: Image.Image, seed: int) -> Image.Image:
        asked.append((seed, on_a_loop()))
        return flipped(picture)

    app = make_app(fill)
    expected(FastAPI, app, "make_app returns a FastAPI app", "make_app phải trả về một app FastAPI")
    colours = torch.randint(0, 256, (9, 7, 3), generator=generator, dtype=torch.uint8)
    picture = Image.fromarray(colours.numpy())
    answer = posted(app, "/fill?seed=7", png(picture))
    yield Property(
        "answers",
        answer.status_code == 200,
        f"POST /fill with a PNG as the body is answered {answer.status_code}, expected 200",
        f"POST /fill với body là một tệp PNG được trả lời {answer.status_code}, cần 200",
    )
    yield Property(
        "media type",
        answer.headers.get("content-type") == "image/png",
        f"the answer says that it is {answer.headers.get('content-type')}; a client must be told image/png",
        f"câu trả lời tự xưng là {answer.headers.get('content-type')}; phải báo cho client biết đó là image/png",
    )
    try:
        same = Image.open(io.BytesIO(answer.content)).convert("RGB").tobytes() == flipped(picture).tobytes()
    except OSError:
        same = False
    yield Property(
        "picture",
        same,
        "the picture that comes back is not what fill made of the one that was sent",
        "ảnh trả về không phải là thứ mà fill tạo ra từ ảnh đã gửi",
    )
    plain = posted(app, "/fill", png(picture))
    yield Property(
        "seed",
        asked[0][0] == 7 and type(asked[0][0]) is int and plain.status_code == 200 and asked[-1][0] == 0,
        "?seed=7 must reach fill as the number 7, and a request without a seed be filled with seed 0",
        "?seed=7 phải đến được fill dưới dạng số 7, còn yêu cầu không ghi seed thì dùng seed 0",
    )
    wrong = posted(app, "/fill", b"this is no picture")
    yield Property(
        "a mistake is the client's",
        400 <= wrong.status_code < 500,
        f"a body that is no picture is answered {wrong.status_code}: 5xx says that the *service* is broken, 2xx "
        "that "
        "all is well",
        f"body không phải là ảnh mà lại được trả lời {wrong.status_code}: 5xx nghĩa là *dịch vụ* hỏng, 2xx nghĩa "
        "là mọi "
        "thứ đều ổn",
    )
    try:
        said = wrong.json().get("detail")
    except (ValueError, AttributeError):
        said = None
    yield Property(
        "one sentence",
        isinstance(said, str) and 10 <= len(said) <= 200 and "\n" not in said and "Traceback" not in said,
        "a mistake is answered as JSON with a `detail` of one sentence, without a traceback",
        "khi client sai, hãy trả lời bằng JSON có `detail` là một câu, không kèm traceback",
    )
    odd = posted(app, "/fill?seed=abc", png(picture))
    yield Property(
        "seed is a number",
        400 <= odd.status_code < 500,
        f"?seed=abc is answered {odd.status_code}. FastAPI checks what has a type",
        f"?seed=abc được trả lời {odd.status_code}. FastAPI tự kiểm tra những tham số có khai báo kiểu",
    )
    yield Property(
        "others go on",
        not any(loop for _, loop in asked),
        "fill runs on the event loop: while it thinks, nobody else is answered, not even a health check",
        "fill chạy ngay trên event loop: trong lúc nó tính, không ai khác được trả lời, kể cả yêu cầu kiểm tra sức "
        "khoẻ",
    )


def a_queue(admitted: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """4.2: how many of those who wait begin now, as `LocalEngine` has it."""

    def said(waiting: Sequence[int], running: int, most: int = 8) -> int:
        return int(number(admitted(list(waiting), running, most)))

    yield Property(
        "room",
        said([2, 2, 2], 0) == 3,
        "three jobs of 2 rows fit into a call of 8, and nothing runs: all three begin",
        "ba việc, mỗi việc 2 hàng, vừa trong một lần gọi 8 hàng, và chưa có gì đang chạy: cả ba đều được bắt đầu",
    )
    yield Property(
        "as many as may",
        said([4, 4, 4], 0) == 2,
        "two jobs of 4 rows fill a call of 8 exactly. How many do you let in?",
        "hai việc 4 hàng vừa đúng đầy một lần gọi 8 hàng. Bạn cho vào bao nhiêu việc?",
    )
    yield Property(
        "beside those that run",
        said([4, 4], 6) == 0,
        "6 of 8 rows are taken by jobs that run, so that a job of 4 must wait",
        "6 trên 8 hàng đã bị các việc đang chạy chiếm, nên việc 4 hàng phải chờ",
    )
    yield Property(
        "in turn",
        said([6, 1, 1], 4) == 0,
        "a small job overtakes a large one: with many small ones, when will the large one begin?",
        "việc nhỏ chen trước việc lớn: nếu việc nhỏ cứ đến mãi thì bao giờ việc lớn mới được bắt đầu?",
    )
    yield Property(
        "too large alone",
        said([20, 1], 0) == 1,
        "a job of more rows than a call takes never begins: it is to begin once nothing else runs (and is then cut up)",
        "việc có nhiều hàng hơn một lần gọi sẽ không bao giờ được bắt đầu: hãy cho nó chạy khi không còn gì khác đang "
        "chạy "
        "(rồi nó sẽ được chia nhỏ)",
    )
    yield Property(
        "nobody",
        said([], 0) == 0 and said([20], 1) == 0,
        "with nobody waiting nobody begins, and a job that is too large waits until it is alone",
        "không ai chờ thì không ai bắt đầu, và việc quá lớn phải chờ đến khi chỉ còn một mình nó",
    )


def shared_calls(together: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """4.3: jobs at different steps in one network call, beside a call for each."""
    calls: list[int] = []

    def network(x: Tensor, level: Tensor) -> Tensor:
        calls.append(len(x))
        return x.flip(-1) * level.to(x).reshape(-1, 1, 1, 1) + x.mean((1, 2, 3), keepdim=True)

    def job(rows: int, size: int = 8) -> tuple[Tensor, Tensor]:
        level = torch.rand(1, generator=generator, dtype=torch.float64).expand(rows)
        return normal(generator, rows, 3, size, size), level

    jobs = [job(2), job(1), job(3)]
    wanted = [network(*each) for each in jobs]
    calls.clear()
    given = several(together(network, list(jobs)), [tuple(each.shape) for each in wanted])
    yield Property(
        "one call",
        len(calls) == 1,
        f"three jobs asked the network {len(calls)} times: the point is to ask once for all their rows",
        f"ba việc gọi mạng {len(calls)} lần: mục đích là gọi một lần cho tất cả các hàng",
    )
    one_level = [network(x, jobs[0][1][:1].expand(len(x))) for x, _ in jobs]
    yield Property(
        "own level",
        not all(close(a, b) for a, b in zip(given, one_level, strict=True)),
        "all rows were told the level of the first job: jobs stand at different steps",
        "mọi hàng đều nhận mức (level) của việc đầu tiên: các việc đang ở những bước khác nhau",
    )
    yield Property(
        "own rows",
        all(close(a, b) for a, b in zip(given, wanted, strict=True)),
        "a job does not get back what the network said of its own rows, in their order",
        "có việc không nhận lại đúng những gì mạng nói về các hàng của chính nó, theo đúng thứ tự",
    )
    mixed = [job(1), job(2, 16), job(1), job(1, 16)]
    wanted = [network(*each) for each in mixed]
    calls.clear()
    try:
        answer = together(network, list(mixed))
        shapes = [tuple(a.shape) for a in answer]
        there = len(calls) == 2
    except (RuntimeError, ValueError):
        answer, shapes, there = [], [], False
    yield Property(
        "two sizes",
        there,
        "pictures of 8 and of 16 pixels fit in no common tensor: one call for each size",
        "ảnh 8 pixel và 16 pixel không xếp chung vào một tensor được: mỗi kích thước gọi một lần",
    )
    yield Property(
        "order",
        shapes == [tuple(b.shape) for b in wanted] and all(close(a, b) for a, b in zip(answer, wanted, strict=True)),
        "with two sizes the answers come back in another order than the jobs: somebody gets a stranger's face",
        "khi có hai kích thước, câu trả lời về không đúng thứ tự của các việc: có người nhận nhầm khuôn mặt của người "
        "khác",
    )
    calls.clear()
    try:
        nobody = len(together(network, [])) == 0 and not calls
    except (RuntimeError, ValueError, IndexError):
        nobody = False
    yield Property(
        "nobody",
        nobody,
        "with no job there is nothing to ask, and nothing to answer",
        "không có việc nào thì không có gì để hỏi, cũng không có gì để trả lời",
    )


def blocks(stream: str) -> list[dict[str, str]]:
    """A stream of server-sent events, as a browser reads it."""
    found: list[dict[str, str]] = [{}]
    for line in stream.split("\n"):
        name, colon, value = line.partition(":")
        if not line:
            found.append({})
        elif colon and name in ("id", "event", "data"):
            old = found[-1].get(name)
            value = value.removeprefix(" ")
            found[-1][name] = f"{old}\n{value}" if old is not None and name == "data" else value
    return [block for block in found[:-1] if block]


def a_stream(event: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """4.4: server-sent events, as a browser reads them."""
    facts = {"step": int(torch.randint(1, 9, (1,), generator=generator)), "of": 9, "note": "mắt\ntrái"}

    def said(name: str, data: dict[str, Any], number: int) -> str:
        given = event(name, data, number)
        expected(str, given, "an event is text (str)", "sự kiện là văn bản (str)")
        return str(given)

    one, other = said("step", facts, 3), said("done", {"seed": 1}, 4)
    yield Property(
        "blank line",
        one.endswith("\n\n"),
        "an event ends with a blank line: until then the browser goes on waiting",
        "một sự kiện kết thúc bằng một dòng trống: chưa gặp dòng trống thì trình duyệt còn chờ",
    )
    read = blocks(one + other)
    yield Property(
        "one event each",
        len(read) == 2 and len(blocks(one)) == 1,
        f"two events are read as {len(read)}: only at the end may a line be blank",
        f"hai sự kiện lại bị đọc thành {len(read)}: chỉ ở cuối mới được có dòng trống",
    )
    yield Property(
        "name",
        read[0].get("event") == "step" and read[1].get("event") == "done",
        "the line `event:` does not say what kind of event it is",
        "dòng `event:` không cho biết đây là loại sự kiện gì",
    )
    try:
        data = json.loads(read[0].get("data", ""))
    except ValueError:
        data = None
    yield Property(
        "JSON",
        data == facts,
        "what stands after `data:` is not the facts as JSON. Python's own way of printing a dict is none",
        "phần sau `data:` không phải là dữ liệu ở dạng JSON. Cách Python in một dict không phải là JSON",
    )
    yield Property(
        "one line of data",
        one.rstrip("\n").count("\n") == 2,
        "an event is three lines: id, event and data",
        "mỗi sự kiện gồm ba dòng: id, event và data",
    )
    yield Property(
        "number",
        read[0].get("id") == "3" and read[1].get("id") == "4",
        "without its number (`id:`) a client whose connection broke cannot say where to go on",
        "thiếu số thứ tự (`id:`), client bị đứt kết nối không biết xin tiếp từ đâu",
    )


def a_gate(gate: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """4.5: a candidate passes unless it is worse beyond chance, on the same pictures."""
    n = 120
    theirs = 0.3 + 0.1 * normal(generator, n).numpy()
    own = normal(generator, n).numpy()
    own = (own - own.mean()) / own.std()

    def said(ours: Any, theirs: Any) -> bool:
        given = gate(ours, theirs)
        if given is None:
            raise Unwritten
        expected(bool | np.bool_, given, "the gate says True or False", "cổng phải trả lời True hoặc False")
        return bool(given)

    yield Property(
        "better",
        said(theirs - 0.1 + 0.01 * own, theirs),
        "a candidate with a lower LPIPS in every picture is refused: less is better",
        "ứng viên có LPIPS thấp hơn ở mọi ảnh lại bị từ chối: LPIPS càng thấp càng tốt",
    )
    yield Property(
        "worse",
        not said(theirs + 0.1 + 0.01 * own, theirs),
        "a candidate that is worse in every picture gets in",
        "ứng viên kém hơn ở mọi ảnh lại được cho qua",
    )
    yield Property(
        "no better is enough",
        said(theirs - 0.001 + 0.05 * own, theirs),
        "as good as the champion, for all one can tell, and yet refused: the gate keeps out what is worse, and asks "
        "for no "
        "proof that it is better",
        "không kém mô hình đương nhiệm (champion) theo những gì đo được mà vẫn bị từ chối: cổng chặn cái kém "
        "hơn, chứ không đòi bằng chứng là tốt hơn",
    )
    yield Property(
        "chance",
        said(theirs + 0.001 + 0.05 * own, theirs),
        "worse by .001 +- .009: that is chance, and another draw of pictures would say the opposite. A mean alone is "
        "no "
        "reason to refuse",
        "kém hơn .001 +- .009: đó là ngẫu nhiên, bốc những ảnh khác có khi ra ngược lại. Chỉ một con số trung bình "
        "chưa đủ "
        "lý do để từ chối",
    )
    yield Property(
        "same pictures",
        not said(theirs + 0.01 + 0.01 * own, theirs),
        "worse by .01 in nearly every picture, and yet it gets in: the pictures differ far more from each other than "
        "the "
        "models do on one picture",
        "kém .01 ở hầu hết mọi ảnh mà vẫn lọt: các ảnh khác nhau nhiều hơn hẳn so với hai mô hình khác nhau trên cùng "
        "một ảnh",
    )
    yield Property(
        "enough pictures",
        not said(theirs[:20] - 0.1, theirs[:20]),
        "20 pictures were enough for you: the gate asks for 100",
        "20 ảnh đã đủ với bạn, trong khi cổng đòi 100",
    )
    broken = np.where(np.arange(n) == 7, np.nan, theirs - 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy's, about quantiles of no numbers
        let_in = said(broken, theirs)
    yield Property(
        "a number",
        not let_in,
        "a picture whose figure is no number (NaN) gets in. What does a comparison with NaN say?",
        "một ảnh có chỉ số không phải là số (NaN) mà vẫn lọt. So sánh với NaN cho kết quả gì?",
    )


def a_watch(drift: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """4.6: the distance of Kolmogorov and Smirnov, and whether it matters, beside `serving.monitor`."""
    from diffusion_lab.serving.monitor import Histogram, compare  # here, as above

    def said(visitors: Tensor, training: Tensor) -> tuple[float, bool]:
        given = drift(visitors, training)
        if given is None:
            raise Unwritten
        expected(
            tuple, given, "a distance and True or False were expected", "cần trả về khoảng cách và True hoặc False"
        )
        return number(given[0]), bool(given[1])

    training = torch.rand(1000, generator=generator, dtype=torch.float64)
    yield Property(
        "same",
        said(training, training) == (0.0, False),
        "the training's own pictures are at distance 0, and no drift",
        "chính các ảnh huấn luyện thì khoảng cách là 0, không hề trôi (drift)",
    )
    yield Property(
        "apart",
        said(training + 2, training) == (1.0, True) and close(said(training - 2, training)[0], 1.0),
        "all visitors are brighter than all of training, or all are darker: the distance is 1, the largest there is",
        "mọi ảnh gửi đến đều sáng hơn (hoặc tối hơn) mọi ảnh huấn luyện: khoảng cách là 1, lớn nhất có thể",
    )
    yield Property(
        "not the mean",
        said(0.5 + 0.2 * (training - 0.5), training)[0] > 0.35,
        "the same mean, but far less spread, and you see hardly a difference: compare the shares below *every* value",
        "cùng trung bình nhưng độ trải hẹp hơn hẳn, vậy mà bạn gần như không thấy khác: hãy so tỉ lệ nằm dưới *mọi* "
        "giá trị",
    )
    yield Property(
        "few visitors",
        not said(0.6 + 0.1 * training[:4], training)[1],
        "four visitors: chance alone makes distances of .8 out of so few, and that is no alarm",
        "mới có bốn người gửi: với số ít như vậy, chỉ ngẫu nhiên cũng tạo ra khoảng cách .8, chưa phải lúc báo động",
    )
    many = torch.linspace(0, 1, 20_000, dtype=torch.float64)
    yield Property(
        "what matters",
        not said(many + 0.05, many)[1],
        "a distance of .05 is surely no chance with 20,000 visitors, but it is too small to matter: .2 is the bound",
        "với 20 nghìn người gửi, khoảng cách .05 chắc chắn không do ngẫu nhiên, nhưng quá nhỏ để đáng lo: ngưỡng là .2",
    )
    visitors = training[:300].square() * 0.9
    ends = [*torch.linspace(0, 1, 4001).tolist(), float("inf")]
    counts = [float((visitors <= end).sum()) for end in ends]
    there = compare("", Histogram(tuple(ends), tuple(counts)), training.sort().values.tolist(), 0.2, 100)
    distance, drifted = said(visitors, training)
    wanted = max(abs(c / 300 - float((training <= e).double().mean())) for c, e in zip(counts, ends, strict=True))
    yield Property(
        "monitor",
        abs(distance - wanted) < 0.02 and drifted == there.drifted,
        "on random visitors your distance is not that of diffusion_lab.serving.monitor",
        "với dữ liệu ngẫu nhiên, khoảng cách của bạn khác với diffusion_lab.serving.monitor",
    )


EXERCISES = (
    Exercise("4.1", "make_app", an_api, "fastapi"),
    Exercise("4.2", "admitted", a_queue),
    Exercise("4.3", "together", shared_calls),
    Exercise("4.4", "event", a_stream),
    Exercise("4.5", "gate", a_gate),
    Exercise("4.6", "drift", a_watch, "diffusion_lab.serving.monitor"),
)
