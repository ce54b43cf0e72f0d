"""What lab 2 asks: DDPM, its sibling DDIM, and a small UNet."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from diffusion_lab.diffusion.process import add_noise, beta_between, posterior_mean, posterior_variance, x_0_from_eps
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.labs.grading import Exercise, Property, Unwritten, close, normal, number, tensor
from diffusion_lab.networks.blocks import Blocks, attend, level_embedding

BATCH, SIDE = 6, 8


def some_table(generator: Generator, steps: int = 10) -> Tensor:
    """alpha-bar_0 to alpha-bar_T of betas that nobody knows by heart, float64 ``(T + 1,)``."""
    betas = 0.02 + 0.25 * torch.rand(steps, generator=generator, dtype=torch.float64).sort().values
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


def schedule(linear_alpha_bar: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """2.1, beside `schedule.linear`."""
    start = 1e-3 + 1e-2 * torch.rand(1, generator=generator).item()
    steps, end = 12, 20 * start
    table = tensor(linear_alpha_bar(steps, start, end), (steps + 1,))
    yield Property(
        "starts at 1",
        close(table[0], 1.0, 1e-7),
        "the table begins before the first step: alpha-bar_0 = 1, nothing is lost yet",
        "bảng bắt đầu từ trước bước đầu tiên: alpha-bar_0 = 1, chưa mất gì cả",
    )
    yield Property(
        "stays positive",
        float(tensor(linear_alpha_bar(200, start, end), (201,)).min()) > 0,
        "after 200 steps something is left, however little, yet your alpha-bar falls to 0 or below. "
        "How do shares that are left combine?",
        "sau 200 bước vẫn còn lại chút gì đó, dù rất ít, vậy mà alpha-bar của bạn giảm xuống 0 hoặc âm. "
        "Những phần còn lại qua từng bước kết hợp với nhau thế nào?",
    )
    yield Property(
        "first step",
        close(table[1], 1 - start, 1e-6),
        "after one step alpha-bar has lost exactly beta_1",
        "sau một bước, alpha-bar mất đi đúng beta_1",
    )
    betas = 1 - table[1:] / table[:-1]
    yield Property(
        "betas on a line",
        close(betas.diff().diff(), torch.zeros(steps - 2), 1e-6),
        "the share that each step removes does not rise on a line: does your table remember the steps before?",
        "phần bị mất ở mỗi bước không tăng theo đường thẳng: bảng của bạn có nhớ các bước trước đó không?",
    )
    yield Property(
        "last step",
        close(betas[-1], end, 1e-6),
        "the T-th step should have the last beta, `end`: there are T betas, from beta_1 to beta_T",
        "bước thứ T phải dùng beta cuối cùng là `end`: có đúng T giá trị beta, từ beta_1 đến beta_T",
    )
    yield Property(
        "library",
        close(tensor(linear_alpha_bar(1000, 1e-4, 0.02), (1001,)), linear(1000).alpha_bar, 1e-6),
        "for T = 1000 your table is not that of diffusion_lab.diffusion.schedule.linear; are you exact enough "
        "(float64)?",
        "với T = 1000, bảng khác với diffusion_lab.diffusion.schedule.linear; độ chính xác đã đủ chưa (float64)?",
    )


def simple_loss(epsilon_loss: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """2.2: L_simple (DDPM eq. 14)."""
    table = some_table(generator)
    shape = (BATCH, 1, SIDE, SIDE)
    x_0, eps = normal(generator, *shape), normal(generator, *shape)
    one, zero = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    t = torch.tensor([1, 3, 4, 6, 9, 10])
    seen: list[tuple[Tensor, Tensor]] = []

    def loss(x_0: Tensor, eps: Tensor, off: float = 0.0) -> float:
        """Of a network that knows the noise, but for a constant."""

        def network(x: Tensor, t: Tensor) -> Tensor:
            seen.append((x, t))
            return eps + off

        return number(epsilon_loss(network, x_0, t, eps, table))

    def shown(x_0: Tensor, eps: Tensor) -> Tensor:
        loss(x_0, eps)
        return seen[-1][0].double()

    given = loss(x_0, eps)
    if not seen:
        yield Property("asks", False, "the network is never called", "mạng chưa được gọi lần nào")
    yield Property(
        "noisy input",
        not close(seen[-1][0], x_0, 1e-3),
        "the network is shown the clean picture; what does it see when it samples?",
        "mạng đang được xem ảnh sạch; lúc sinh ảnh nó sẽ nhìn thấy gì?",
    )
    variance = shown(one, zero).square() + shown(zero, one).square()
    yield Property(
        "variance stays 1",
        close(variance, one),
        "in what the network is shown, the squares of the factors of x_0 and eps do not sum to 1",
        "trong ảnh đưa vào mạng, tổng bình phương hệ số của x_0 và của eps khác 1",
    )
    yield Property(
        "level",
        close(shown(x_0, eps), add_noise(x_0, eps, table[t])),
        "the factors belong to another step: table[t] is alpha-bar_t, since table[0] = 1 is there",
        "các hệ số thuộc về bước khác: table[t] chính là alpha-bar_t, vì bảng đã có table[0] = 1",
    )
    yield Property(
        "told the time",
        torch.equal(torch.as_tensor(seen[-1][1]).double().flatten(), t.double()),
        "the network must be told t, the same that made x_t",
        "phải cho mạng biết t, đúng t đã dùng để tạo ra x_t",
    )
    yield Property(
        "perfect network",
        close(given, 0.0, 1e-6),
        "a network that says exactly eps must cost 0: what is your target?",
        "mạng nói đúng eps thì loss phải bằng 0: mục tiêu (target) của bạn là gì?",
    )
    yield Property(
        "squared",
        close(loss(x_0, eps, 2.0), 4 * loss(x_0, eps, 1.0)),
        "an error twice as large costs four times as much",
        "sai số gấp đôi thì loss phải gấp bốn",
    )
    yield Property(
        "mean",
        close(loss(x_0, eps, 1.0), 1.0),
        "an error of 1 everywhere costs 1, whatever the size of picture and batch: sum or mean?",
        "sai 1 đơn vị ở mọi pixel thì loss bằng 1, bất kể kích thước ảnh và batch: lấy tổng hay trung bình?",
    )


def ancestral(ancestral_step: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """2.3: algorithm 2, line 4, with sigma_t^2 = beta_t."""
    table = some_table(generator)
    shape = (BATCH, 1, SIDE, SIDE)
    x, eps, z = (normal(generator, *shape) for _ in range(3))
    one, zero = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    betas = torch.cat([torch.zeros(1, dtype=torch.float64), 1 - table[1:] / table[:-1]])

    def step(x: Tensor, eps: Tensor, t: int, z: Tensor) -> Tensor:
        return tensor(ancestral_step(x, eps, t, table, z), shape)

    yield Property(
        "last step is quiet",
        close(step(x, eps, 1, z), step(x, eps, 1, 0 * z)),
        "the step from t = 1 to the picture adds no noise (algorithm 2, line 3)",
        "bước từ t = 1 về ảnh không thêm nhiễu (thuật toán 2, dòng 3)",
    )
    noise = step(zero, zero, 5, one).square()
    yield Property(
        "own t",
        not close(noise, betas[4] * one, 1e-6) and not close(noise, betas[6] * one, 1e-6),
        "the noise is that of a neighbouring step: which two entries of the table does step t lie between?",
        "lượng nhiễu thuộc về bước bên cạnh: bước t nằm giữa hai phần tử nào của bảng?",
    )
    yield Property(
        "variance of the noise",
        close(noise, betas[5] * one, 1e-6),
        "the noise that the step adds has variance beta_t; look at x = 0, eps = 0",
        "nhiễu được thêm vào có phương sai beta_t; hãy thử x = 0, eps = 0",
    )
    yield Property(
        "factor of x",
        close(step(one, zero, 5, zero).square(), one / (1 - betas[5])),
        "the forward step shrank x; where the network sees no noise, the step back must undo exactly that",
        "bước thuận đã thu nhỏ x; khi mạng không thấy nhiễu, bước lùi phải hoàn tác đúng điều đó",
    )
    level, before = table[5].expand(BATCH), table[4].expand(BATCH)
    wanted = posterior_mean(zero, x_0_from_eps(zero, one, level), level, before)
    yield Property(
        "factor of eps",
        close(step(zero, one, 5, zero), wanted),
        "too much or too little of the predicted noise is removed: compare the fraction in front of eps, roots "
        "included",
        "phần nhiễu dự đoán bị trừ đi quá nhiều hoặc quá ít: hãy so phân số trước eps, kể cả các căn bậc hai",
    )
    mean = posterior_mean(x, x_0_from_eps(x, eps, level), level, before)
    yield Property(
        "library",
        close(step(x, eps, 5, z), mean + beta_between(level, before)[0].sqrt() * z),
        "mean and noise together are not those of diffusion_lab.diffusion.process.posterior_mean",
        "trung bình cộng nhiễu khác với kết quả của diffusion_lab.diffusion.process.posterior_mean",
    )


def sibling(ddim_step: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """2.4: DDIM eq. 12 with sigma of eq. 16."""
    table = some_table(generator)
    shape = (BATCH, 1, SIDE, SIDE)
    x_0, eps, z = (normal(generator, *shape) for _ in range(3))
    one, zero = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)

    def at(t: int) -> Tensor:
        return add_noise(x_0, eps, table[t].expand(BATCH))

    def step(x: Tensor, eps: Tensor, t: int, s: int, eta: float, z: Tensor) -> Tensor:
        return tensor(ddim_step(x, eps, t, s, table, eta, z), shape)

    yield Property(
        "no chance at eta = 0",
        close(step(at(8), eps, 8, 3, 0.0, z), step(at(8), eps, 8, 3, 0.0, zero)),
        "with eta = 0 the step is deterministic: z may not matter",
        "với eta = 0, bước đi là tất định (deterministic): z không được ảnh hưởng gì",
    )
    yield Property(
        "arrives",
        close(step(at(8), eps, 8, 0, 0.0, z), x_0),
        "told the true noise, one step from t = 8 to 0 must land on x_0 exactly: look at how you predict x_0",
        "biết đúng nhiễu thì một bước từ t = 8 về 0 phải rơi chính xác vào x_0: hãy xem lại cách dự đoán x_0",
    )
    level = table[8].expand(BATCH)
    yield Property(
        "direction",
        close(step((1 - table[8]).sqrt() * one, one, 8, 3, 0.0, z).square(), (1 - table[3]) * one),
        "at s = 3 as much noise must be left as x_3 has, not as x_8 has",
        "tại s = 3, lượng nhiễu còn lại phải bằng của x_3, không phải của x_8",
    )
    yield Property(
        "stays on the way",
        close(step(at(8), eps, 8, 3, 0.0, z), at(3)),
        "told the true noise, the step from 8 to 3 must land on x_3 made of the same x_0 and eps",
        "biết đúng nhiễu thì bước từ 8 về 3 phải rơi vào x_3 tạo bởi cùng x_0 và eps",
    )
    fresh = step(zero, zero, 8, 7, 1.0, one).square()
    kept = step((1 - table[8]).sqrt() * one, one, 8, 7, 1.0, zero).square()
    yield Property(
        "variance is kept",
        close(fresh + kept, (1 - table[7]) * one),
        "what is drawn anew at eta = 1 must be taken from the old noise: the two variances sum to 1 - alpha-bar_s",
        "phần nhiễu lấy mới khi eta = 1 phải được trừ khỏi nhiễu cũ: tổng hai phương sai bằng 1 - alpha-bar_s",
    )
    yield Property(
        "half of eta",
        close(step(zero, zero, 8, 7, 0.5, one).square(), 0.25 * fresh),
        "eta multiplies the deviation, so that half of it leaves a quarter of the variance",
        "eta nhân vào độ lệch chuẩn, nên giảm eta một nửa thì phương sai còn một phần tư",
    )
    before = table[7].expand(BATCH)
    mean = posterior_mean(at(8), x_0_from_eps(at(8), eps, level), level, before)
    yield Property(
        "sibling",
        close(step(at(8), eps, 8, 7, 1.0, z), mean + posterior_variance(level, before)[0].sqrt() * z),
        "with eta = 1 and s = t - 1 the step is DDPM's with the small variance, beta-tilde; yours is another",
        "với eta = 1 và s = t - 1, đây chính là bước của DDPM với phương sai nhỏ beta-tilde; hàm của bạn thì khác",
    )


def clock(time_embedding: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """2.5, beside `blocks.level_embedding`."""
    t = torch.randint(1, 1000, (5,), generator=generator)
    width = 16
    table = tensor(time_embedding(t, width), (5, width))
    start = tensor(time_embedding(torch.zeros(1, dtype=torch.long), width), (1, width))[0]
    yield Property(
        "t = 0",
        close(start, torch.cat([torch.ones(8), torch.zeros(8)])),
        "at t = 0 every cosine is 1 and every sine 0: cosines first, then sines",
        "tại t = 0, mọi cos bằng 1 và mọi sin bằng 0: các cos đứng trước, rồi đến các sin",
    )
    yield Property(
        "fastest",
        close(table[:, 0], t.cos()) and close(table[:, 8], t.sin()),
        "the first frequency is 1: its cosine is cos(t)",
        "tần số đầu tiên bằng 1: cos của nó là cos(t)",
    )
    near = tensor(time_embedding(torch.tensor([0, 1]), width), (2, width))
    yield Property(
        "slower and slower",
        bool((near[1, 8:].diff() < 0).all()),
        "from one frequency to the next the clock must run slower; from t = 0 to 1 your later sines do not move less",
        "tần số sau phải chậm hơn tần số trước; từ t = 0 sang 1, các sin về sau của bạn không hề dịch ít hơn",
    )
    yield Property(
        "library",
        close(table, level_embedding(t, width), 2e-3),
        "the frequencies between are not those of diffusion_lab.networks.blocks.level_embedding: there are width "
        "/ 2 of them",
        "các tần số ở giữa khác với diffusion_lab.networks.blocks.level_embedding: có width / 2 tần số",
    )


def randomised(module: nn.Module, generator: Generator) -> Any:  # the names of its parts are the student's
    """The module with weights from N(0, .04), zeros of the initialisation included."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def inputs_of(module: nn.Module, seen: list[Tensor]) -> None:
    """Keeps what a module is called with."""
    module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))


def asked(module: nn.Module, *of: Tensor) -> Tensor:
    """What a module gives, without gradient."""
    with torch.no_grad():
        given = module(*of)
    if given is None:
        raise Unwritten
    assert isinstance(given, Tensor)
    return given


def block(ResBlock: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """2.6, beside `blocks.ResBlock`."""
    student = randomised(ResBlock(8, 16, 12), generator)
    x, emb = torch.randn(2, 8, 6, 6, generator=generator), torch.randn(2, 12, generator=generator)
    first: list[Tensor] = []
    second: list[Tensor] = []
    inputs_of(student.conv_in, first)
    inputs_of(student.conv_out, second)
    given = tensor(asked(student, x, emb), (2, 16, 6, 6))
    yield Property(
        "first convolution",
        bool(first) and first[-1].shape == x.shape and close(first[-1], F.silu(student.norm_in(x))),
        "the first convolution must read x after norm and activation, in this order",
        "tích chập (convolution) thứ nhất phải nhận x sau khi chuẩn hoá (norm) rồi kích hoạt (activation), đúng "
        "thứ tự này",
    )
    moved = asked(student, x, emb + 1)
    yield Property(
        "told the time",
        not close(moved, given, 1e-3),
        "the output is the same whatever the time embedding says",
        "đầu ra không đổi dù time embedding có là gì",
    )
    h = student.conv_in(F.silu(student.norm_in(x))) + student.embed(emb)[:, :, None, None]
    asked(student, x, emb)
    yield Property(
        "second convolution",
        close(second[-1], F.silu(student.norm_out(h)).detach()),
        "what the second convolution reads is not what eq. (h) says: the embedding goes in before the second norm, the "
        "activation comes after it",
        "đầu vào của tích chập thứ hai chưa đúng công thức (h): embedding được cộng trước lần chuẩn hoá thứ hai, "
        "hàm kích "
        "hoạt nằm sau lần chuẩn hoá đó",
    )
    ours = Blocks(embedding=12, scale_shift=False, norm_groups=8).residual(8, 16)
    ours.load_state_dict(student.state_dict())
    wanted = asked(ours, x, emb)
    with torch.no_grad():
        for parameter in student.conv_out.parameters():
            parameter.zero_()
    yield Property(
        "shortcut",
        close(asked(student, x, emb), student.shortcut(x).detach()),
        "with a silent second convolution the block must give back its shortcut of x: that is what makes it residual",
        "khi tích chập thứ hai bằng 0, khối phải trả về đúng nhánh tắt (shortcut) của x: đó là ý nghĩa của chữ "
        "residual",
    )
    yield Property(
        "library",
        close(given, wanted),
        "with the same weights your block is not diffusion_lab.networks.blocks.ResBlock",
        "với cùng trọng số, khối của bạn cho kết quả khác diffusion_lab.networks.blocks.ResBlock",
    )


def looking(attention: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """2.7, beside `blocks.attend`."""
    shape = (2, 4, 3, 5)
    q, k, v = (normal(generator, *shape) for _ in range(3))

    def said(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return tensor(attention(q, k, v), q.shape)

    def moved(x: Tensor) -> Tensor:
        return x.flatten(2)[..., order].reshape(x.shape)

    order = torch.randperm(15, generator=generator)
    yield Property(
        "weights sum to 1",
        close(said(q, k, torch.ones_like(v)), torch.ones_like(v)),
        "if every value is 1, any average of them is 1: over which axis do your weights sum to 1?",
        "nếu mọi giá trị v bằng 1 thì trung bình nào cũng bằng 1: trọng số của bạn có tổng bằng 1 theo trục nào?",
    )
    yield Property(
        "no place is special",
        close(said(moved(q), moved(k), moved(v)), moved(said(q, k, v))),
        "if the pixels change places, so must the output; yours mixes pixels with channels on the way (a reshape is no "
        "transpose)",
        "đổi chỗ các pixel thì đầu ra cũng phải đổi chỗ theo; hàm của bạn làm lẫn pixel với kênh (channel): "
        "reshape không phải "
        "là transpose",
    )
    yield Property(
        "over pixels",
        close(said(q, moved(k), moved(v)), said(q, k, v)),
        "keys and values are a set of pixels whose order is of no account: who looks at whom in yours, pixels or "
        "channels?",
        "key và value là một tập các pixel, thứ tự không quan trọng: trong hàm của bạn ai nhìn ai, pixel hay kênh?",
    )
    query = torch.zeros(1, 4, 1, 2, dtype=torch.float64)
    query[:, 0] = 1.0
    key, value = torch.zeros_like(query), torch.zeros_like(query)
    key[0, 0, 0], value[0, 0, 0] = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0])
    yield Property(
        "scale",
        close(said(query, key, value)[0, 0, 0, 0], 1 / (1 + math.exp(-1.0))),
        "for four channels and products 2 and 0 the first weight is that of 1 and 0: something divides the products",
        "với bốn kênh và các tích vô hướng 2 và 0, trọng số thứ nhất phải như của 1 và 0: các tích được chia cho "
        "cái gì đó",
    )
    tokens = [part.flatten(2).mT[:, None] for part in (q, k, v)]
    yield Property(
        "library",
        close(said(q, k, v), attend(tokens[0], tokens[1], tokens[2])[:, 0].mT.reshape(shape)),
        "on random input your result is not that of diffusion_lab.networks.blocks.attend",
        "với đầu vào ngẫu nhiên, kết quả khác với diffusion_lab.networks.blocks.attend",
    )


def whole_network(UNet: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """2.8: the skips join the way up, and every part has a say."""
    student = randomised(UNet(channels=8), generator)
    seen: dict[str, list[Tensor]] = {name: [] for name in ("fine", "coarse")}
    made: dict[str, list[Tensor]] = {name: [] for name in ("fine", "coarse")}
    for name, up, down in (("fine", "up_fine", "down_fine"), ("coarse", "up_coarse", "down_coarse")):
        inputs_of(getattr(student, up), seen[name])
        getattr(student, down).register_forward_hook(lambda _, __, out, kept=made[name]: kept.append(out.detach()))
    x, t = torch.randn(2, 1, 16, 16, generator=generator), torch.tensor([3, 90])
    given = tensor(asked(student, x, t), x.shape)
    yield Property(
        "told the time",
        not close(asked(student, x, t + 200), given, 1e-4),
        "the output is the same at every t: is the embedding handed to the blocks?",
        "đầu ra như nhau với mọi t: embedding đã được đưa vào các khối chưa?",
    )
    for name, en, vi in (
        ("coarse", "after `down_coarse`", "sau `down_coarse`"),
        ("fine", "after `down_fine`", "sau `down_fine`"),
    ):
        joined = seen[name][-1].chunk(2, dim=1) if seen[name] else ()
        found = bool(made[name]) and any(
            half.shape == made[name][-1].shape and close(half, made[name][-1]) for half in joined
        )
        apart = len(joined) == 2 and not close(joined[0], joined[1])
        yield Property(
            f"{name} skip",
            found and apart,
            f"one half of what `up_{name}` reads is the features as they were {en}, the other comes from below; yours "
            "is not so",
            f"một nửa đầu vào của `up_{name}` là đặc trưng (feature) {vi}, nửa kia đi từ dưới lên; của bạn chưa phải "
            "vậy",
        )
    student.train()
    output = student(x, t)
    torch.autograd.backward(output.square().sum())
    idle = sorted({name.split(".")[0] for name, p in student.named_parameters() if p.grad is None})
    yield Property(
        "every part works",
        not idle,
        f"no gradient reaches {', '.join(idle)}: is it used at all?",
        f"không có gradient nào tới {', '.join(idle)}: phần này đã được dùng chưa?",
    )


EXERCISES = (
    Exercise("2.1", "linear_alpha_bar", schedule),
    Exercise("2.2", "epsilon_loss", simple_loss),
    Exercise("2.3", "ancestral_step", ancestral),
    Exercise("2.4", "ddim_step", sibling),
    Exercise("2.5", "time_embedding", clock),
    Exercise("2.6", "ResBlock", block),
    Exercise("2.7", "attention", looking),
    Exercise("2.8", "UNet", whole_network),
)
