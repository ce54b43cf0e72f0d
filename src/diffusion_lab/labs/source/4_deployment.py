# %% [markdown] lang="en"
r"""
# Lab 4. Deployment

A model in a notebook helps nobody but its author. You put one behind an API, let many people share it, show them what it
is doing, and then run the small circle that is called MLOps: train, evaluate, gate, register, promote, watch, roll back.
It ends with a model of yours behind a page, swapped for a better one while people use it.

**You need** lab 3, or what a mask and a sampling step are. **Time** about 55 minutes, of which 4 to 8 are waiting on two
CPU cores. Everything runs on this machine, and is stopped again at the end.

| word | here |
|---|---|
| **API** | what a program may ask of another, and what it gets back: an address, a method, a body, a status |
| row | one picture in a network call; a job has one or more |
| champion, candidate | the model in service, and the one that wants its place |
"""

# %% [markdown] lang="vi"
r"""
# Lab 4. Triển khai (deployment)

Một mô hình nằm trong notebook chẳng giúp được ai ngoài người viết ra nó. Trong bài này bạn đặt mô hình sau một API, cho nhiều
người dùng chung, cho họ thấy nó đang làm gì, rồi chạy vòng tròn nhỏ mang tên MLOps: huấn luyện, đánh giá, qua cổng (gate), đăng
ký (register), đưa lên phục vụ (promote), theo dõi, và quay về bản cũ (roll back). Bài kết thúc với mô hình của bạn đứng sau một
trang web, được thay bằng bản tốt hơn ngay trong lúc có người đang dùng.

**Cần biết trước:** lab 3, hoặc mặt nạ và bước lấy mẫu là gì. **Thời gian:** khoảng 55 phút, trong đó chờ 4 đến 8 phút trên hai
nhân CPU. Mọi thứ chạy trên chính máy này, và được tắt hết ở cuối bài.

| từ | trong bài |
|---|---|
| **API** | điều một chương trình được phép hỏi chương trình khác, và thứ nó nhận lại: địa chỉ, phương thức, body, mã trạng thái |
| hàng (row) | một ảnh trong một lần gọi mạng; mỗi việc (job) có một hay nhiều hàng |
| mô hình đương nhiệm (champion), ứng viên (candidate) | mô hình đang phục vụ, và mô hình muốn thay chỗ nó |
"""

# %%
# Run me first. Only on a hosted notebook, where the package is not installed yet: write here where it comes from, such
# as "git+https://..." and the address of the repository that this notebook comes from, or the URL of a wheel.
PACKAGE = ""

import importlib.util
import subprocess
import sys

if importlib.util.find_spec("diffusion_lab") is None:
    assert PACKAGE, "diffusion_lab is not installed here: write into PACKAGE, above, where it comes from"
    package = f"diffusion-lab[labs,serve] @ {PACKAGE}"
    print("installing diffusion_lab and what it needs: some minutes ...")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)
    importlib.invalidate_caches()

# %%
import asyncio
import io
import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import matplotlib.pyplot as plt
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from PIL import Image
from tqdm import tqdm

from diffusion_lab import cascade
from diffusion_lab.data.cache import Pictures, build
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.inpainting import shipped
from diffusion_lab.labs import check
from diffusion_lab.pictures import from_pil, masked, png, to_float, to_pil, to_uint8
from diffusion_lab.serving.run import configured, listening

LANGUAGE = "en"
check = partial(check, language=LANGUAGE)
generator = torch.manual_seed(0)
source, folder = CelebA(built_in_faces(), name="built-in faces"), Path(tempfile.mkdtemp())
model = cascade.apart(cascade.load(shipped()))[0].eval()  # of the model that ships, the part for 64 pixels


def faces(split, size):
    """The built-in faces of a split, ``(N, 3, size, size)`` in [-1, 1]. They are of nobody: a network drew them."""
    return to_float(Pictures(build(source, split, center148(), size, folder)).images)


def show(pictures, titles):
    """Draws PIL pictures side by side."""
    figure, axes = plt.subplots(1, len(pictures), figsize=(1.7 * len(pictures), 2), squeeze=False)
    for axis, picture, title in zip(axes[0], pictures, titles, strict=True):
        axis.imshow(picture)
        axis.set(title=title, xticks=[], yticks=[])
    figure.tight_layout()
    plt.show()


class Served:
    """An app at a free port of this machine, in a thread, until it is stopped."""

    def __init__(self, app):
        self.held = ExitStack()
        ear = self.held.enter_context(listening("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{ear.getsockname()[1]}"
        self.server = uvicorn.Server(configured(app))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [ear]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)

    def stop(self):
        self.server.should_exit = True
        self.thread.join()
        self.held.close()


# %% [markdown] lang="en"
r"""
## 1. FastAPI in ten lines

A client sends `POST /fill?seed=7` with a picture as the body; the server answers with a status, a *content type*, and a
body. 2xx says that all went well, 4xx that the *client* made a mistake and can mend it, 5xx that the *service* is broken.
So a mistake is answered 4xx and in one sentence: what was wrong, and the way out.

### Exercise 4.1: a picture in, a picture out

`fill(picture, seed)` takes and gives an RGB picture of PIL. Raise `HTTPException(422, "...")` for a body that
`Image.open` cannot read (it raises `OSError`), and answer by `Response(..., media_type=...)`; FastAPI itself checks an
argument `seed: int = 0`. A handler that is `async def` runs on the **event loop**, which everybody shares: hand slow work
to a thread, `await run_in_threadpool(fill, ...)`.
"""

# %% [markdown] lang="vi"
r"""
## 1. FastAPI trong mười dòng

Client gửi `POST /fill?seed=7` với body là một bức ảnh; server trả lời bằng mã trạng thái (status), *kiểu nội dung (content
type)* và body. 2xx nghĩa là mọi việc ổn, 4xx là *client* làm sai và tự sửa được, 5xx là *dịch vụ* bị hỏng. Vì vậy, khi client
sai, hãy trả lời 4xx kèm đúng một câu: sai ở đâu, và làm thế nào cho đúng.

### Bài 4.1: ảnh vào, ảnh ra

`fill(picture, seed)` nhận và trả về ảnh RGB của PIL. Hãy raise `HTTPException(422, "...")` khi `Image.open` không đọc được body
(nó raise `OSError`), và trả lời bằng `Response(..., media_type=...)`; FastAPI tự kiểm tra tham số `seed: int = 0`. Hàm xử lý khai
báo `async def` chạy trên **event loop** mà mọi người dùng chung: việc nặng thì giao cho một luồng (thread), `await
run_in_threadpool(fill, ...)`.
"""


# %% exercise="4.1"
def make_app(fill):
    """A FastAPI app of which POST /fill?seed=... fills the picture in the body and answers with a PNG.

    fill(picture, seed) -> picture, both RGB of PIL; `png(picture)` makes the bytes of a file
    """
    app = FastAPI()

    @app.post("/fill")
    async def filled(request: Request, seed: int = 0):
        try:
            picture = Image.open(io.BytesIO(await request.body())).convert("RGB")
        except OSError:
            raise HTTPException(422, "the body is no picture that can be read: send a PNG or a JPEG") from None
        return Response(png(await run_in_threadpool(fill, picture, seed)), media_type="image/png")

    return app


check("4.1", make_app)

# %% [markdown] lang="en"
r"""
Your app, at a free port of this machine. The hole is fixed here, in the middle. The second request has a mistake in it.
"""

# %% [markdown] lang="vi"
r"""
App của bạn, chạy ở một cổng (port) còn trống trên máy này. Ở đây lỗ cố định, nằm giữa ảnh. Yêu cầu thứ hai cố ý gửi sai.
"""

# %%
hole = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
hole[:, :, 20:44, 16:48].fill_(True)


def fill(picture, seed):
    """The middle of a picture of 64 pixels, made anew."""
    with torch.no_grad():
        return to_pil(model(from_pil(picture.resize((64, 64)))[None], hole, seeds=[seed])[0])


face = faces("test", 64)[:8]
served = Served(make_app(fill))
answer = httpx.post(f"{served.url}/fill?seed=7", content=png(to_pil(face[0])), timeout=60)
print(answer.status_code, answer.headers["content-type"], len(answer.content), "bytes")
mistake = httpx.post(f"{served.url}/fill", content=b"a mistake", timeout=60)
print(mistake.status_code, mistake.json())
served.stop()
show([to_pil(masked(face[:1], hole)[0]), Image.open(io.BytesIO(answer.content))], ["sent", "answered"])

# %% [markdown] lang="en"
r"""
## 2. A queue

A hundred people at once do not fit in the memory. Jobs wait, and between two steps some of them may begin: in the order of
their coming, as long as their **rows** fit beside those that run. Two traps: if small jobs may overtake, a large one may
wait for ever; and one that is larger than a call ever may be must begin at some time too, alone.

### Exercise 4.2: who begins?
"""

# %% [markdown] lang="vi"
r"""
## 2. Hàng đợi (queue)

Một trăm người gửi ảnh cùng lúc thì bộ nhớ không chứa nổi. Các việc phải chờ, và giữa hai bước, một số việc được bắt đầu: theo thứ tự
đến, miễn là các **hàng (row)** của chúng còn vừa bên cạnh những hàng đang chạy. Có hai cái bẫy: nếu việc nhỏ được chen lên thì
việc lớn có thể chờ mãi mãi; và một việc lớn hơn mức tối đa của một lần gọi rồi cũng phải được bắt đầu, một mình.

### Bài 4.2: ai được bắt đầu?
"""


# %% exercise="4.2"
def admitted(waiting, running, most):
    """How many of the first jobs in the queue begin now.

    waiting: rows of each job, in order; running: rows that run already; most: rows of a call -> a number
    """
    count = 0
    while count < len(waiting) and (running == 0 or running + waiting[count] <= most):
        running += waiting[count]
        count += 1
    return count


check("4.2", admitted)

# %% [markdown] lang="en"
r"""
## 3. Step batching

On a GPU, eight pictures in one network call cost little more than one. But people come at different times: one is at its first step,
the next at its seventh. That does not matter to the network, which is told the level of **each row**. So join the rows of
all jobs, ask once, and give each job its own part. (Ordinary batching waits until a batch is full, and everybody in it
until the slowest is done.)

### Exercise 4.3: one call for all

Pictures of different sizes do not fit in one tensor: one call for each size then. The answers come in the order of the jobs.
"""

# %% [markdown] lang="vi"
r"""
## 3. Gộp theo bước (step batching)

Trên GPU, gọi mạng một lần cho tám ảnh chỉ tốn hơn gọi cho một ảnh chút ít. Nhưng mọi người không đến cùng lúc: người mới ở bước
đầu, người đã ở bước thứ bảy. Với mạng, điều đó không quan trọng, vì nó được cho biết mức (level) của **từng hàng**. Vậy hãy nối
các hàng của mọi việc lại, hỏi một lần, rồi trả cho mỗi việc phần của nó. (Cách gộp thông thường phải chờ đủ batch, và ai trong batch cũng phải chờ
người chậm nhất.)

### Bài 4.3: một lần gọi cho tất cả

Ảnh khác kích thước không nằm chung trong một tensor được: khi đó mỗi kích thước gọi một lần. Câu trả lời theo đúng thứ tự các việc.
"""


# %% exercise="4.3"
def together(network, jobs):
    """What the network says to each job, with one call for each size of pictures.

    network(x (N, 3, S, S), level (N,)) -> like x; jobs: list of (x (n, 3, S, S), level (n,)) -> a list, one like each x
    """
    answers = [None] * len(jobs)
    for size in {x.shape[1:] for x, _ in jobs}:
        members = [i for i, (x, _) in enumerate(jobs) if x.shape[1:] == size]
        said = network(torch.cat([jobs[i][0] for i in members]), torch.cat([jobs[i][1] for i in members]))
        for i, part in zip(members, said.split([len(jobs[i][0]) for i in members]), strict=True):
            answers[i] = part
    return answers


check("4.3", together)

# %%
from diffusion_lab.diffusion.denoiser import Condition
from diffusion_lab.serving.batching import SharedCalls, begin


def ask(x, level):
    """The network, which here sees a picture that is all hole."""
    whole = torch.ones(len(x), 1, 64, 64, dtype=torch.bool)
    with torch.no_grad():
        return model.denoiser(x, level, Condition(known=torch.zeros_like(x), mask=whole)).x_0


jobs = [(torch.randn(1, 3, 64, 64, generator=generator), torch.rand(1, dtype=torch.float64)) for _ in range(8)]
ask(*jobs[0])  # the first call is slow
begun = time.perf_counter()
alone = [ask(*job) for job in jobs]
between = time.perf_counter()
shared = together(ask, jobs)
ended = time.perf_counter()
apart = max(float((one - other).abs().max()) for one, other in zip(alone, shared, strict=True))
print(f"8 calls of one row {between - begun:.2f} s, one call of 8 rows {ended - between:.2f} s, apart by {apart:.1e}")

# %% [markdown] lang="en"
r"""
On a CPU there is hardly any gain: eight pictures are eight times the work. On a GPU, which one small picture leaves mostly
idle, there is. The pictures agree up to rounding: *who else is there must not
change what I get*. The library's `serving.batching.SharedCalls` does this for walks with any sampler.

## 4. A stream of previews

Ten seconds of nothing feel like a broken page. **Server-sent events** are one long answer in pieces of text, which a browser
reads with `EventSource`. An event is a few lines, and a blank line ends it:

```
id: 3
event: step
data: {"step": 3, "of": 10}

```

### Exercise 4.4: an event
"""

# %% [markdown] lang="vi"
r"""
Trên CPU hầu như không có lợi: tám ảnh là tám lần tính toán. Trên GPU thì có, vì một ảnh nhỏ để phần lớn GPU ngồi không. Các ảnh
chỉ khác nhau ở mức làm tròn số: *có thêm người khác cùng dùng thì kết quả của tôi cũng không được thay đổi*. Trong thư viện,
`serving.batching.SharedCalls` làm việc này cho mọi bộ lấy mẫu.

## 4. Dòng ảnh xem trước (stream of previews)

Mười giây im lặng trông như trang web bị hỏng. **Server-sent events** là một câu trả lời dài, gửi thành nhiều mẩu văn bản, trình
duyệt đọc bằng `EventSource`. Mỗi sự kiện gồm vài dòng, kết thúc bằng một dòng trống:

```
id: 3
event: step
data: {"step": 3, "of": 10}

```

### Bài 4.4: một sự kiện
"""


# %% exercise="4.4"
def event(name, data, number):
    """A server-sent event as text: its number, its name, and data (a dict) as JSON on one line."""
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n"


check("4.4", event)

# %%
from base64 import b64decode, b64encode


def streaming():
    """An app of which GET /events tells every step of a filling, as it is made."""
    app = FastAPI()

    @app.get("/events")
    def events(seed: int = 0):
        def steps():
            calls, walk = SharedCalls(16), begin(model, face[1:2], hole, [seed], None)
            while not walk.done:
                with torch.no_grad():
                    (said,) = calls(model.denoiser, [walk])
                    walk = walk.advanced(said)
                preview = b64encode(png(to_pil(to_float(walk.preview())[0]))).decode()
                yield event("step", {"step": walk.step, "of": walk.steps, "png": preview}, walk.step)

        return StreamingResponse(steps(), media_type="text/event-stream")

    return app


served, previews = Served(streaming()), []
with httpx.stream("GET", f"{served.url}/events", timeout=60) as answer:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            previews.append(json.loads(line.removeprefix("data: ")))
served.stop()
chosen = previews[::3]
show(
    [Image.open(io.BytesIO(b64decode(each["png"]))) for each in chosen],
    [f"{each['step']} of {each['of']}" for each in chosen],
)

# %% [markdown] lang="en"
r"""
## 5. Train, evaluate, gate

Now a model of your own: a small UNet of 32 pixels by lab 3's recipe, for minutes. The champion is trained for `SHORT`
steps, the candidate for `LONG`. Both are written as folders, weights and the recipe that rebuilds them; nothing is pickled,
so that loading a stranger's model runs no code of his.
"""

# %% [markdown] lang="vi"
r"""
## 5. Huấn luyện, đánh giá, qua cổng

Giờ đến mô hình của riêng bạn: một UNet nhỏ, 32 pixel, theo cách làm của lab 3, chạy vài phút. Mô hình đương nhiệm được huấn luyện
`SHORT` bước, ứng viên `LONG` bước. Cả hai được ghi thành thư mục, gồm trọng số và công thức (recipe) để dựng lại; không dùng pickle, nên
nạp mô hình của người lạ cũng không chạy mã của họ.
"""

# %%
from diffusion_lab import recipe
from diffusion_lab.data.masks import rectangle
from diffusion_lab.diffusion.denoiser import Velocity
from diffusion_lab.diffusion.losses import DenoisingLoss, Levels
from diffusion_lab.diffusion.process import add_noise

SHORT, LONG, BATCH = 150, 600, 32
UNET = {"image_size": 32, "channels": 16, "multipliers": [1, 2, 4], "depth": 1, "condition_channels": 4}
NODE = {
    "_target_": "diffusion_lab.inpainting.Inpainter",
    "denoiser": {
        "_target_": "diffusion_lab.diffusion.denoiser.NetworkDenoiser",
        "network": {"_target_": "diffusion_lab.networks.unet.UNet", **UNET},
        "schedule": {"_target_": "diffusion_lab.diffusion.schedule.cosine", "steps": 1000},
        "predicts": {"_target_": "diffusion_lab.diffusion.denoiser.Velocity"},
    },
    "sampler": {"_target_": "diffusion_lab.diffusion.samplers.ddim", "steps": 8},
}
train, test = faces("train", 32), faces("test", 32)
holes = torch.stack([rectangle(32, generator) for _ in range(500)])


def trained(steps):
    """A model of yours."""
    torch.manual_seed(1)
    inpainter, loss_of = recipe.build(NODE), DenoisingLoss(Velocity())
    optimizer = torch.optim.AdamW(inpainter.parameters(), lr=2e-3)
    for step in tqdm(range(steps), mininterval=2):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, 2 * (1 - step / steps))
        x_0, mask = (all_of[torch.randint(len(all_of), (BATCH,), generator=generator)] for all_of in (train, holes))
        level = inpainter.denoiser.schedule.level(1 + 999 * torch.rand(BATCH, generator=generator, dtype=torch.float64))
        eps, noise = (torch.randn(x_0.shape, generator=generator) for _ in range(2))
        x = torch.where(mask, add_noise(x_0, eps, level), x_0)
        said = inpainter.denoiser(x, level, inpainter.condition(x_0, mask, noise))
        loss = loss_of(said, x_0, eps, Levels(level, level, torch.ones_like(level)), mask).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    data = {"name": "built-in faces", "crop": "center148", "image_size": 32, "attributes": []}
    inpainter.recipe = {"model": NODE, "data": data, "training": {"step": steps}}
    return inpainter.eval()


models = {"champion": trained(SHORT), "candidate": trained(LONG)}
for name, inpainter in models.items():
    inpainter.save(folder / name)
print(sorted(path.name for path in (folder / "candidate").iterdir()))

# %% [markdown] lang="en"
r"""
**Evaluate**: 120 test faces, the same holes and seeds for both. What is kept is not one number but the figure of *each
picture*, with the protocol that says how it came about. (`evaluate.py` writes this file with more in it, FID too.)
"""

# %% [markdown] lang="vi"
r"""
**Đánh giá**: 120 khuôn mặt test, cùng lỗ và cùng seed cho cả hai. Thứ được giữ lại không phải một con số mà là chỉ số của *từng
ảnh*, kèm quy trình (protocol) cho biết nó được tính ra sao. (`evaluate.py` ghi tệp này với nhiều thông tin hơn, có cả FID.)
"""

# %%
from diffusion_lab.data.masks import evaluation_mask
from diffusion_lab.metrics import LPIPS, l1_hole, psnr, ssim

COUNT = 120
perceptual = LPIPS()
tests = torch.stack([evaluation_mask(rectangle, 32, i) for i in range(COUNT)])


def evaluated(inpainter):
    """The results of a model, as the registry reads them."""
    truth, given = to_uint8(test[:COUNT]), test[:COUNT]
    begun = time.perf_counter()
    with torch.no_grad():
        parts = [inpainter(given[i : i + 30], tests[i : i + 30], seeds=range(i, i + 30)) for i in range(0, COUNT, 30)]
    seconds = (time.perf_counter() - begun) / COUNT
    filled = to_uint8(torch.cat(parts))
    each = {"lpips": perceptual, "psnr": psnr, "ssim": ssim, "l1_hole": l1_hole}
    values = {name: measure(filled, truth, tests).double() for name, measure in each.items()}
    means = {name: float(value.mean()) for name, value in values.items()}
    row = {"mask": "rectangle", "method": "diffusion", "network_calls": 8, "fid": None, "seconds_per_image": seconds}
    facts = {"n": COUNT, "data": "built-in faces", "split": "test", "mask_set": 1, "seed": 0, "image_size": 32}
    facts |= {"fid_biased": True, "extractor": "none", "samplers": {"diffusion": NODE["sampler"]}}
    lists = {name: value.tolist() for name, value in values.items()}
    return {
        "protocol": facts,
        "rows": [row | means],
        "pictures": [{"mask": "rectangle", "method": "diffusion"} | lists],
    }


results = {name: evaluated(inpainter) for name, inpainter in models.items()}
for name, result in results.items():
    (folder / f"{name}.json").write_text(json.dumps(result))
    print(name, {key: round(result["rows"][0][key], 4) for key in ("lpips", "psnr", "l1_hole")})
shown = [6, 7, 8]
rows = [masked(test[shown], tests[shown])]
with torch.no_grad():
    rows += [inpainter(test[shown], tests[shown], seeds=shown) for inpainter in models.values()]
pictures = [to_pil(row[i]) for i in range(3) for row in rows]
show(pictures, ["given", "champion", "candidate"] * 3)

# %% [markdown] lang="en"
r"""
### Exercise 4.5: the gate

A candidate takes the champion's place unless it is **worse**, and worse means: the 95 % interval of `ours - theirs`, picture
by picture, lies above 0 (LPIPS: less is better). A lower mean alone is no reason to let it in, a higher one none to keep it
out. And the gate does not believe what it cannot judge: it wants at least 100 pictures, and numbers.
`interval(values)` of `diffusion_lab.bootstrap` is your `paired_interval` of lab 3: `(low, high)` of a mean.
"""

# %% [markdown] lang="vi"
r"""
### Bài 4.5: cổng (gate)

Ứng viên được thay mô hình đương nhiệm, trừ khi nó **kém hơn**, và kém hơn nghĩa là: khoảng tin cậy 95% của `ours - theirs`, tính trên từng
ảnh, nằm hẳn trên 0 (LPIPS càng thấp càng tốt). Trung bình thấp hơn chưa đủ lý do để cho vào, cao hơn cũng chưa đủ để chặn lại. Và
cổng không tin điều nó không xét được: cần ít nhất 100 ảnh, và phải là số. `interval(values)` của `diffusion_lab.bootstrap` chính là
`paired_interval` ở lab 3: `(low, high)` của một trung bình.
"""


# %% exercise="4.5"
from diffusion_lab.bootstrap import interval


def gate(ours, theirs):
    """Whether a candidate with these LPIPS (n,), of the same pictures as the champion's (n,), may take its place."""
    if len(ours) < 100 or not np.isfinite(ours).all():
        return False
    low, _ = interval(ours - theirs)
    return bool(low <= 0)


check("4.5", gate)

# %%
lpips = {name: np.array(result["pictures"][0]["lpips"]) for name, result in results.items()}
print("candidate against champion:", gate(lpips["candidate"], lpips["champion"]))
print("champion against candidate:", gate(lpips["champion"], lpips["candidate"]))

# %% [markdown] lang="en"
r"""
**Register and promote.** A registry keeps every version as it was, with its results, its card and what it saw in training;
an *alias*, `faces@production`, points at one. The library's gate asks more than yours: does the model load, are all weights
finite, do known pixels come back bit for bit, is it not slower. Its answer is kept, refusals too.
"""

# %% [markdown] lang="vi"
r"""
**Đăng ký và đưa lên phục vụ.** Registry giữ nguyên từng phiên bản, kèm kết quả, thẻ mô hình (model card) và những gì nó đã thấy lúc
huấn luyện; một *bí danh (alias)*, `faces@production`, trỏ vào một phiên bản. Cổng của thư viện hỏi nhiều hơn cổng của bạn: mô hình có
nạp được không, mọi trọng số có hữu hạn không, pixel đã biết có trở lại nguyên vẹn từng bit không, có bị chậm đi không. Câu trả lời
được lưu lại, kể cả khi từ chối.
"""

# %%
from diffusion_lab.registry import Registry, card, judge
from diffusion_lab.registry.inputs import inputs

registry = Registry(folder / "registry")
seen = inputs(Pictures(build(source, "train", center148(), 32, folder)), rectangle)


def registered(name):
    """The version that a model becomes."""
    about = card("faces", recipe.read(folder / name), results[name])
    return registry.register("faces", folder / name, folder / f"{name}.json", about, seen)


def promoted(number):
    """Asks the gate, and points the alias at a version if it says yes."""
    champion = registry.champion("faces", "production")
    decision = judge(registry.candidate(f"faces@{number}"), champion, slower=2)  # the clock hears who else is served
    for one in decision.checks:
        print("yes" if one.passed else "NO ", one.sentence)
    try:
        registry.promote("faces", number, decision)
    except ValueError as refused:
        print("->", str(refused)[:120])
    else:
        print(f"-> faces@production is version {number}")


promoted(registered("champion"))

# %% [markdown] lang="en"
r"""
## 6. Behind the page, and swapped under load

The package's own service: queue, step batching, previews, a page. Open the address that is printed, while it runs. Three
people keep asking; meanwhile the candidate is registered, judged, promoted and swapped in. Running jobs end on the old
model, new ones begin on the new one, and nobody is turned away.
"""

# %% [markdown] lang="vi"
r"""
## 6. Sau trang web, và thay ngay khi đang có tải

Đây là dịch vụ có sẵn trong gói phần mềm: hàng đợi, gộp theo bước, ảnh xem trước, một trang web. Hãy mở địa chỉ được in ra trong lúc
nó chạy. Ba người liên tục gửi yêu cầu; trong lúc đó ứng viên được đăng ký, xét duyệt, đưa lên và thay vào. Việc đang chạy kết thúc
trên mô hình cũ, việc mới bắt đầu trên mô hình mới, và không ai bị từ chối.
"""

# %%
from diffusion_lab.client import Client
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.measures import Measures
from diffusion_lab.serving.run import local
from diffusion_lab.serving.settings import offered

measures = Measures()
engine = local(registry.resolve("faces@production"), measures, device="cpu")
while not engine.stats().ready:
    time.sleep(0.05)
served = Served(create_app(engine, offered(recipe.read(folder / "champion")), measures=measures))
print("the page:", served.url)
answers, failures, going = [], [], threading.Event()
going.set()


def person(number):
    """Somebody who keeps asking."""
    with Client(served.url) as client:
        while going.is_set():
            i = (number + 3 * len(answers)) % COUNT
            try:
                (one,) = client.inpaint(
                    to_pil(test[i]), Image.fromarray(255 * tests[i, 0].byte().numpy()), seed=i, align="off"
                )
                answers.append((time.perf_counter(), one.version))
            except Exception as error:
                failures.append(error)
                return


def swapped(path):
    """Puts a folder's model into service; in a thread, since a notebook has an event loop of its own."""
    with ThreadPoolExecutor() as pool:
        return pool.submit(asyncio.run, engine.swap(path)).result()


people = [threading.Thread(target=person, args=(i,), daemon=True) for i in range(3)]
for each in people:
    each.start()
while len(answers) < 20 and not failures:
    time.sleep(0.1)
promoted(registered("candidate"))
now = swapped(registry.resolve("faces@production"))
moment, before = time.perf_counter(), len(answers)
while len(answers) < before + 20 and not failures:
    time.sleep(0.1)
going.clear()
for each in people:
    each.join()
names = list(dict.fromkeys(version for _, version in answers))
plt.figure(figsize=(7, 1.6))
plt.scatter([at - moment for at, _ in answers], [names.index(version) for _, version in answers], s=8)
plt.axvline(0, color="gray", linewidth=0.8)
plt.gca().set(
    yticks=range(len(names)), yticklabels=names, ylim=(-0.5, len(names) - 0.5), xlabel="seconds after the swap"
)
plt.tight_layout()
plt.show()
print(f"{len(answers)} answers by {len(names)} models, {len(failures)} failures; in service: {now}")

# %% [markdown] lang="en"
r"""
### Exercise 4.6: drift

The model is as good as it was, but do people still send what it was trained on? One looks at simple figures of what comes
in, such as the brightness of the known pixels, and compares *distributions*, not means: the **Kolmogorov-Smirnov distance**
is the largest difference between the shares of visitors and of training pictures at or below any value,

$$D = \max_v \big| F_{\text{visitors}}(v) - F_{\text{training}}(v) \big|.$$

It has drifted if $D$ is above .2 (less does not matter) **and** above what chance explains, $1.63 \sqrt{(n + m) / (n m)}$.
"""

# %% [markdown] lang="vi"
r"""
### Bài 4.6: trôi dữ liệu (data drift)

Mô hình vẫn tốt như trước, nhưng người dùng có còn gửi những thứ giống dữ liệu huấn luyện không? Ta nhìn vào các con số đơn giản của
ảnh gửi đến, như độ sáng của các pixel đã biết, và so *phân phối* chứ không so trung bình: **khoảng cách Kolmogorov-Smirnov** là chênh
lệch lớn nhất giữa tỉ lệ ảnh gửi đến và tỉ lệ ảnh huấn luyện nằm ở hoặc dưới một giá trị nào đó,

$$D = \max_v \big| F_{\text{visitors}}(v) - F_{\text{training}}(v) \big|.$$

Dữ liệu đã trôi nếu $D$ lớn hơn .2 (nhỏ hơn thì không đáng lo) **và** lớn hơn mức mà ngẫu nhiên giải thích được, $1.63 \sqrt{(n + m) /
(n m)}$.
"""


# %% exercise="4.6"
def drift(visitors, training):
    """The distance of Kolmogorov and Smirnov, and whether it is drift. visitors (n,), training (m,) -> (number, bool)"""
    values = torch.cat([visitors, training])
    here, there = (torch.searchsorted(x.sort().values, values, right=True) / len(x) for x in (visitors, training))
    distance = float((here - there).abs().max())
    n, m = len(visitors), len(training)
    return distance, distance > max(0.2, 1.63 * ((n + m) / (n * m)) ** 0.5)


check("4.6", drift)

# %%
from diffusion_lab.serving import monitor
from diffusion_lab.serving.measures import brightness

training = torch.tensor(seen["input_brightness"])
plt.figure(figsize=(6, 3))
dark = test * 0.4 - 0.6  # a camera in a dim room
for name, pictures in (("as in the test", test), ("dark", dark)):
    visitors = torch.tensor(
        [brightness(picture, mask) for picture, mask in zip(pictures[:60], tests[:60], strict=True)]
    )
    distance, drifted = drift(visitors, training)
    print(f"{name}: distance {distance:.2f}, {'DRIFTED' if drifted else 'as in training'}")
    plt.hist(visitors.numpy(), bins=20, range=(0, 1), alpha=0.5, density=True, label=name)
plt.hist(training.numpy(), bins=20, range=(0, 1), histtype="step", color="black", density=True, label="training")
plt.gca().set(xlabel="brightness of the known pixels", ylabel="density")
plt.legend()
plt.show()

watched = folder / "counts.json"  # each call of the monitor looks at what is new since the last
version = registry.resolve("faces@production")
status = monitor.main([served.url, "--inputs", str(version), "--least", "30", "--since", str(watched)])
print("exit status", status)
with Client(served.url) as client:
    for i in tqdm(range(40), mininterval=2):
        client.inpaint(to_pil(dark[i]), Image.fromarray(255 * tests[i, 0].byte().numpy()), seed=i, align="off", steps=2)
status = monitor.main([served.url, "--inputs", str(version), "--least", "30", "--since", str(watched)])
print("exit status", status)

# %% [markdown] lang="en"
r"""
**Roll back.** If something is wrong with the new model, do not mend it in service: point the alias at the version before,
and look for the cause in peace. Then stop everything.
"""

# %% [markdown] lang="vi"
r"""
**Quay về bản cũ (roll back).** Nếu mô hình mới có vấn đề, đừng sửa ngay khi nó đang phục vụ: hãy trỏ bí danh về phiên bản trước, rồi
bình tĩnh tìm nguyên nhân. Sau đó tắt tất cả.
"""

# %%
number = registry.rollback("faces")
swapped(registry.resolve("faces@production"))
print(f"faces@production is version {number} again; in service: {engine.version}")
for move in registry.history("faces"):
    print(move["version"], move["why"])
served.stop()
with ThreadPoolExecutor() as pool:
    pool.submit(asyncio.run, engine.drain(5)).result()

# %% [markdown] lang="en"
r"""
## What you have built

An API that says what is wrong, a queue without starvation, one call for everybody, a stream, a gate that asks for an
interval, and a watch on the visitors. *Train, evaluate, gate, register, promote, watch, roll back* is the whole of MLOps in
small; `pipeline.py` does all of it in one command.

*To go on:* `uv run serve.py` and its page with a photo of yours; `docs/serving.md`, `docs/pipeline.md`. What would you
monitor beside brightness? When would you retrain? And whose faces may you keep?
"""

# %% [markdown] lang="vi"
r"""
## Bạn đã làm được gì

Một API biết nói rõ sai ở đâu, một hàng đợi không bỏ rơi ai, một lần gọi cho tất cả mọi người, một dòng sự kiện, một cổng đòi khoảng
tin cậy, và một bộ theo dõi dữ liệu gửi đến. *Huấn luyện, đánh giá, qua cổng, đăng ký, đưa lên, theo dõi, quay về*: đó là MLOps thu
nhỏ; `pipeline.py` làm tất cả bằng một lệnh.

*Đi tiếp:* chạy `uv run serve.py` và mở trang của nó với một bức ảnh của bạn; đọc `docs/serving.md`, `docs/pipeline.md`. Ngoài độ
sáng, bạn sẽ theo dõi thêm điều gì? Khi nào thì huấn luyện lại? Và bạn được phép giữ khuôn mặt của ai?
"""
