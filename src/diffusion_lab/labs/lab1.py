"""What lab 1 asks: the diffusion probabilistic model of Sohl-Dickstein et al. 2015."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.likelihood import density, step_bits
from diffusion_lab.diffusion.process import add_noise, posterior_mean, posterior_variance, renoise
from diffusion_lab.diffusion.schedule import NoiseSchedule, from_betas
from diffusion_lab.labs.grading import Exercise, Property, close, normal, number, several, tensor
from diffusion_lab.lessons.data import ring, rings
from diffusion_lab.lessons.rivals import MODES, NOISE, REACH, counted

LEAST = 1e-4
"""What stands in for beta-tilde_1 = 0 in the labs."""


def some_betas(steps: int, generator: Generator) -> Tensor:
    """A table of betas that rises unevenly, float64 ``(T,)`` in (.01, .3)."""
    return 0.01 + 0.29 * torch.rand(steps, generator=generator, dtype=torch.float64).sort().values


def mode_counting(count_modes: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """1.1, beside `rivals.counted`."""
    centres = ring(MODES, NOISE)

    def said(draws: Tensor) -> tuple[float, float]:
        given = count_modes(draws, centres, REACH)
        modes, between = given if isinstance(given, tuple) and len(given) == 2 else (given, given)
        return number(modes), number(between)

    everywhere = centres.repeat_interleave(25, dim=0)
    yield Property(
        "all modes",
        said(everywhere)[0] == MODES,
        "with 25 draws on each of the 8 centres all 8 modes are there, but yours counts another number",
        "có 25 mẫu nằm đúng trên mỗi tâm thì phải đếm được đủ 8 mode, nhưng hàm đếm ra số khác",
    )
    half = torch.cat([everywhere, torch.zeros_like(everywhere)])
    yield Property(
        "share between",
        close(said(half)[1], 0.5) and close(said(everywhere)[1], 0.0),
        "half of the draws at the middle of the ring, far from every centre: half lies between the modes. "
        "Which draws does your share count?",
        "một nửa số mẫu nằm ở giữa vòng tròn, xa mọi tâm: vậy một nửa nằm giữa các mode. "
        "Tỉ lệ của bạn đang đếm những mẫu nào?",
    )
    few = torch.cat([centres[:1].expand(790, 2), centres[1:3].repeat_interleave(5, dim=0)])
    yield Property(
        "fair share",
        said(few)[0] == 1,
        "five draws of 800 on a centre are far below a quarter of its fair share (100), yet you count that mode",
        "chỉ 5 trong 800 mẫu rơi vào một tâm, kém xa một phần tư của 100 mẫu khi chia đều, vậy mà mode đó vẫn được đếm",
    )
    stray = torch.cat([centres[:2].repeat_interleave(20, dim=0), 0.3 * normal(generator, 900, 2).float()])
    yield Property(
        "share of all draws",
        said(stray)[0] == counted(stray)[0],
        "a fair share is a share of all draws, those between the modes too",
        "chia đều là chia tất cả các mẫu, kể cả những mẫu nằm giữa các mode",
    )
    draws = torch.cat([rings(300, generator), normal(generator, 200, 2).float()])
    modes, between = said(draws)
    yield Property(
        "library",
        modes == counted(draws)[0] and close(between, counted(draws)[1]),
        "on random draws your count is not that of diffusion_lab.lessons.rivals.counted",
        "trên các mẫu ngẫu nhiên, kết quả khác với diffusion_lab.lessons.rivals.counted",
    )


def one_step(forward_step: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """1.2: x_t = sqrt(1 - beta_t) x_(t-1) + sqrt(beta_t) eps (DDPM eq. 2)."""
    x, eps, zero = normal(generator, 6, 2), normal(generator, 6, 2), torch.zeros(6, 2, dtype=torch.float64)
    beta = 0.1 + 0.3 * torch.rand(1, generator=generator, dtype=torch.float64).item()

    def step(x: Tensor, beta: float, eps: Tensor) -> Tensor:
        return tensor(forward_step(x, beta, eps), x.shape)

    yield Property(
        "no noise",
        close(step(x, 0.0, eps), x) and close(step(x, 1.0, eps), eps),
        "with beta = 0 a step changes nothing, with beta = 1 it leaves only noise: yours does not",
        "với beta = 0, một bước không thay đổi gì; với beta = 1 chỉ còn lại nhiễu (noise). Hàm của bạn thì không",
    )
    yield Property(
        "variance of the signal",
        close(step(x, beta, zero).square(), (1 - beta) * x.square()),
        "of the variance of x_(t-1) a share of 1 - beta is left; look at eps = 0 and remember what a factor does to "
        "a variance",
        "phương sai (variance) của x_(t-1) phải còn lại 1 - beta lần; hãy thử eps = 0 và nhớ lại một hệ số nhân "
        "làm gì với phương sai",
    )
    yield Property(
        "variance of the noise",
        close(step(zero, beta, eps).square(), beta * eps.square()),
        "beta is the variance of the noise that a step adds; look at x = 0",
        "beta là phương sai của nhiễu được cộng vào trong một bước; hãy thử x = 0",
    )
    level = torch.ones(6, dtype=torch.float64)
    yield Property(
        "library",
        close(step(x, beta, eps), renoise(x, level, (1 - beta) * level, eps)),
        "the sum of signal and noise is not that of diffusion_lab.diffusion.process.renoise",
        "tổng của tín hiệu và nhiễu khác với diffusion_lab.diffusion.process.renoise",
    )


def closed_form(q_sample: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """1.3: x_t = sqrt(alpha-bar_t) x_0 + sqrt(1 - alpha-bar_t) eps (DDPM eq. 4)."""
    betas = some_betas(8, generator)
    t = torch.arange(1, 9)
    one, zero = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)

    def factors(t: Tensor) -> tuple[Tensor, Tensor]:
        """Of x_0 and of eps, at each t."""
        of_x_0 = [tensor(q_sample(one, each, betas, zero), one.shape)[0, 0] for each in t[:, None]]
        of_eps = [tensor(q_sample(zero, each, betas, one), one.shape)[0, 0] for each in t[:, None]]
        return torch.stack(of_x_0), torch.stack(of_eps)

    signals, noises = factors(t[:1])
    yield Property(
        "still near",
        float(signals) > 0.65,
        "after one step of a small beta x_1 is nearly x_0; in yours most of it is noise",
        "sau một bước với beta nhỏ, x_1 vẫn gần x_0; còn kết quả của bạn phần lớn là nhiễu",
    )
    yield Property(
        "variance stays 1",
        close(signals.square() + noises.square(), torch.ones(1)),
        "if x_0 has variance 1, x_t has variance 1 at every t: the squares of your two factors do not sum to 1",
        "nếu x_0 có phương sai 1 thì x_t cũng có phương sai 1 với mọi t: tổng bình phương hai hệ số của bạn khác 1",
    )
    yield Property(
        "first step",
        close(signals.square(), 1 - betas[:1]),
        "at t = 1 exactly one step was made, with beta_1, which stands at betas[0]",
        "tại t = 1 mới đi đúng một bước, với beta_1, nằm ở betas[0]",
    )
    signals, noises = factors(t)
    yield Property(
        "recursion",
        close(signals[1:].square(), signals[:-1].square() * (1 - betas[1:]))
        and close(signals.square() + noises.square(), torch.ones(8)),
        "right at t = 1, but one more step must multiply what is left of x_0's variance by 1 - beta_t: "
        "does yours know of all steps before t?",
        "đúng tại t = 1, nhưng mỗi bước thêm phải nhân phần phương sai còn lại của x_0 với 1 - beta_t: "
        "hàm đã tính đến mọi bước trước t chưa?",
    )
    together = tensor(q_sample(one.expand(8, 3), t, betas, zero.expand(8, 3)), (8, 3))
    yield Property(
        "own t",
        close(together, signals[:, None].expand(8, 3)),
        "every example of the batch has a t of its own",
        "mỗi mẫu trong batch có một t riêng",
    )
    x_0, eps = normal(generator, 8, 2, 2), normal(generator, 8, 2, 2)
    level = from_betas(betas).alpha_bar[t]
    yield Property(
        "library",
        close(tensor(q_sample(x_0, t, betas, eps), x_0.shape), add_noise(x_0, eps, level)),
        "on pictures (B, C, H) your result is not that of diffusion_lab.diffusion.process.add_noise",
        "với ảnh kích thước (B, C, H), kết quả khác với diffusion_lab.diffusion.process.add_noise",
    )


def back_with_x_0(posterior: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """1.4: q(x_(t-1) | x_t, x_0) (DDPM eq. 6 and 7)."""
    betas = some_betas(8, generator)
    table = from_betas(betas).alpha_bar
    t = torch.arange(1, 9)
    x_t, x_0 = normal(generator, 8, 2), normal(generator, 8, 2)
    one, zero = torch.ones(8, 2, dtype=torch.float64), torch.zeros(8, 2, dtype=torch.float64)

    def said(x_t: Tensor, x_0: Tensor, t: Tensor, betas: Tensor = betas) -> tuple[Tensor, Tensor]:
        mean, variance = several(posterior(x_t, x_0, t, betas), [x_t.shape, (len(x_t),)])
        return mean, variance

    small = torch.full((8,), 1e-3, dtype=torch.float64)
    of_x_t, of_x_0 = said(one, zero, 0 * t + 8, small)[0], said(zero, one, 0 * t + 8, small)[0]
    yield Property(
        "near x_t",
        bool((of_x_t > of_x_0).all()),
        "one small step back stays near x_t, with a little of x_0: yours gives x_0 the greater weight",
        "một bước lùi nhỏ vẫn ở gần x_t, chỉ thêm một chút x_0: hàm của bạn lại cho x_0 trọng số lớn hơn",
    )
    _, variances = said(x_t, x_0, t)
    yield Property(
        "narrower than beta",
        bool((variances[1:] < betas[1:] * (1 - 1e-6)).all()),
        "knowing x_0 makes the step back more certain than beta_t says, but your variance is not below beta_t",
        "biết x_0 thì bước lùi chắc chắn hơn mức beta_t, nhưng phương sai của bạn không nhỏ hơn beta_t",
    )
    mean, variance = said(x_t[:1], x_0[:1], t[:1])
    yield Property(
        "t = 1",
        close(mean, x_0[:1]) and close(variance, 0.0 * variance),
        "at t = 1 the step ends at the data: mean x_0, variance 0. Which alpha-bar stands before the first?",
        "tại t = 1, bước lùi kết thúc ở dữ liệu: trung bình là x_0, phương sai 0. Trước alpha-bar đầu tiên là giá "
        "trị nào?",
    )
    landed = said(table[t].sqrt()[:, None] * x_0, x_0, t)[0]
    yield Property(
        "mean of the margin",
        close(landed, table[t - 1].sqrt()[:, None] * x_0),
        "forward to the mean of x_t, then back: you must land on the mean of x_(t-1) given x_0, and do not. "
        "Compare each factor with eq. 7, roots included",
        "đi tới trung bình của x_t rồi lùi lại: phải trở về trung bình của x_(t-1) khi biết x_0, nhưng hàm thì không. "
        "Hãy so từng hệ số với công thức 7, kể cả các căn bậc hai",
    )
    spread = said(one, zero, t)[0][:, 0].square() * (1 - table[t]) + variances
    yield Property(
        "variance of the margin",
        close(spread, 1 - table[t - 1]),
        "forward to t and back to t - 1 must leave the variance of q(x_(t-1) | x_0), which is 1 - alpha-bar_(t-1)",
        "đi tới t rồi lùi về t - 1 phải cho đúng phương sai của q(x_(t-1) | x_0), tức là 1 - alpha-bar_(t-1)",
    )
    mean, variance = said(x_t, x_0, t)
    levels = table[t], table[t - 1]
    yield Property(
        "library",
        close(mean, posterior_mean(x_t, x_0, *levels)) and close(variance, posterior_variance(*levels)),
        "on random input your result is not that of diffusion_lab.diffusion.process.posterior_mean and _variance",
        "với đầu vào ngẫu nhiên, kết quả khác với posterior_mean và posterior_variance trong "
        "diffusion_lab.diffusion.process",
    )


def learned_variance(reverse_log_variance: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """1.5: log Sigma = mix log beta + (1 - mix) log beta-tilde (iDDPM eq. 15)."""
    betas = some_betas(8, generator)
    table = from_betas(betas).alpha_bar
    t = torch.arange(2, 9)
    large, small = betas[t - 1], posterior_variance(table[t], table[t - 1])

    def said(mix: float | Tensor, t: Tensor = t) -> Tensor:
        given = mix if isinstance(mix, Tensor) else torch.full((len(t), 2), mix, dtype=torch.float64)
        return tensor(reverse_log_variance(given, t, betas, LEAST), given.shape)

    yield Property(
        "a logarithm",
        bool((said(0.5) < 0).all()),
        "variances here are below 1, so that their logarithms are below 0: is yours a logarithm?",
        "các phương sai ở đây nhỏ hơn 1 nên log của chúng phải âm: bạn đã trả về log chưa?",
    )
    yield Property(
        "mix = 1",
        close(said(1.0), large.log()[:, None].expand(-1, 2)),
        "a mix of 1 means the larger of the two variances, beta_t",
        "mix = 1 nghĩa là phương sai lớn hơn trong hai giá trị, tức beta_t",
    )
    yield Property(
        "mix = 0",
        close(said(0.0), small.log()[:, None].expand(-1, 2)),
        "a mix of 0 means the smaller of the two variances, beta-tilde_t",
        "mix = 0 nghĩa là phương sai nhỏ hơn trong hai giá trị, tức beta-tilde_t",
    )
    yield Property(
        "geometric",
        close(2 * said(0.5), said(0.0) + said(1.0)),
        "both ends are right, but halfway lies elsewhere: what is mixed, the variances or their logarithms?",
        "hai đầu đều đúng nhưng điểm giữa thì sai: ta trộn các phương sai hay trộn log của chúng?",
    )
    first = said(torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.long))
    yield Property(
        "t = 1",
        close(first, torch.full((1, 2), math.log(LEAST))),
        "at t = 1 beta-tilde is 0 and has no logarithm: `least` is to stand in for it",
        "tại t = 1, beta-tilde bằng 0 nên không có log: hãy dùng `least` thay cho nó",
    )


def divergence(kl_bits: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """1.6: KL between diagonal Gaussians, in bits."""
    zero, one = torch.zeros(4, 1, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)

    def said(*of: Tensor) -> Tensor:
        return tensor(kl_bits(*of), (len(of[0]),))

    m, v = normal(generator, 4, 3), normal(generator, 4, 3)
    yield Property(
        "zero",
        close(said(m, v, m, v), torch.zeros(4)),
        "the divergence of a distribution from itself is 0",
        "độ phân kỳ (KL) của một phân phối với chính nó bằng 0",
    )
    apart = said(zero, zero, one, zero)
    yield Property(
        "bits",
        close(apart, torch.full((4,), 0.5 / math.log(2))),
        f"N(0, 1) and N(1, 1) are 0.72 bits apart; yours gives {float(apart[0]):.2f}. Which logarithm is meant?",
        f"N(0, 1) và N(1, 1) cách nhau 0.72 bit; hàm cho {float(apart[0]):.2f}. Đang dùng log cơ số mấy?",
    )
    wide, narrow = said(zero, one, zero, -one), said(zero, -one, zero, one)
    yield Property(
        "direction",
        bool((wide > narrow).all()),
        "a narrow p that must cover a wide q costs more than the other way round: is it KL(q || p)?",
        "p hẹp mà phải phủ q rộng thì tốn hơn chiều ngược lại: đây có phải KL(q || p) không?",
    )
    two = [torch.cat([part, part], dim=1) for part in (m[:, :1], v[:, :1], m[:, 1:2], v[:, 1:2])]
    yield Property(
        "sum over dimensions",
        close(said(*two), 2 * said(m[:, :1], v[:, :1], m[:, 1:2], v[:, 1:2])),
        "bits of independent dimensions add up: the same dimension twice costs twice as much",
        "bit của các chiều độc lập thì cộng lại: cùng một chiều lặp hai lần phải tốn gấp đôi",
    )
    n, w = normal(generator, 4, 3), normal(generator, 4, 3)
    of_q, of_p = (torch.distributions.Normal(a, (0.5 * b).exp()) for a, b in ((m, v), (n, w)))
    wanted = torch.distributions.kl_divergence(of_q, of_p).sum(1) / math.log(2)
    yield Property(
        "torch",
        close(said(m, v, n, w), wanted),
        "on random Gaussians your result is not that of torch.distributions.kl_divergence; the input is the "
        "logarithm of "
        "the variance, not of the deviation",
        "với các Gauss ngẫu nhiên, kết quả khác torch.distributions.kl_divergence; đầu vào là log của phương sai, "
        "không phải của độ lệch chuẩn",
    )


def whole_bound(bound_bits: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """1.7: prior, T - 1 divergences and the step to the data, in bits an example (DDPM eq. 5)."""
    size = 5

    def said(x_0: Tensor, predict: Callable[..., Any], betas: Tensor, eps: Tensor) -> Tensor:
        return tensor(bound_bits(x_0, predict, betas, eps, LEAST), (len(x_0),))

    x_0, nothing = normal(generator, size, 2), torch.zeros(size, 2, dtype=torch.float64)

    def clairvoyant(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_0, nothing

    asked: list[int] = []

    def guess(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(int(t.flatten()[0]))
        return 0.6 * x_t.double(), 0.3 + nothing

    betas = torch.cat([some_betas(6, generator), torch.tensor([1 - 1e-9], dtype=torch.float64)])
    eps = normal(generator, 7, size, 2)
    given = said(x_0, guess, betas, eps)
    yield Property(
        "every step",
        sorted(asked) == [1, 2, 3, 4, 5, 6, 7],
        f"the model is to be asked once at each t from 1 to T = 7; yours asks at {sorted(asked)}",
        f"phải hỏi mô hình đúng một lần tại mỗi t từ 1 đến T = 7; hàm của bạn hỏi tại {sorted(asked)}",
    )
    decoded = size_bits(density(x_0, x_0, torch.full_like(x_0, math.log(LEAST))))
    yield Property(
        "step to the data",
        close(said(x_0, clairvoyant, betas, eps), -decoded),
        "for a model that knows x_0, with nothing left of the data at T, only -log2 p(x_0 | x_1) remains; "
        "yours gives something else",
        "với mô hình biết trước x_0 và tại T không còn gì của dữ liệu, chỉ còn lại -log2 p(x_0 | x_1); "
        "hàm của bạn cho giá trị khác",
    )
    short = some_betas(3, generator)
    yield Property(
        "prior",
        close(said(x_0, clairvoyant, short, eps[:3]), -decoded + prior_bits(x_0, from_betas(short)), 1e-3),
        "where a little of the data is left at T, x_T is not drawn from N(0, 1), and that costs bits too",
        "khi tại T vẫn còn sót lại chút dữ liệu, x_T không thật sự theo N(0, 1), và điều đó cũng tốn bit",
    )
    yield Property(
        "sum",
        close(given, reference_bound(x_0, guess, betas, eps), 1e-3),
        "the parts are there, but of an imperfect model the divergences at t = 2..T do not add up as in eq. 5",
        "đã có đủ các thành phần, nhưng với mô hình chưa hoàn hảo thì tổng các KL tại t = 2..T không đúng như "
        "công thức 5",
    )


def size_bits(nats: Tensor) -> Tensor:
    """Nats of each dimension ``(B, D)`` as bits an example."""
    return nats.sum(1) / math.log(2)


def prior_bits(x_0: Tensor, schedule: NoiseSchedule) -> Tensor:
    """KL(q(x_T | x_0) || N(0, 1)) in bits an example."""
    level = schedule.alpha_bar[-1]
    return size_bits(0.5 * (level * x_0.square() - level - torch.log1p(-level)))


def reference_bound(x_0: Tensor, predict: Callable[..., Any], betas: Tensor, eps: Tensor) -> Tensor:
    """The bound by the library's own step."""
    schedule = from_betas(betas)
    total = prior_bits(x_0, schedule)
    for t in range(1, schedule.steps + 1):
        level, next_level = schedule.alpha_bar[t].expand(len(x_0)), schedule.alpha_bar[t - 1].expand(len(x_0))
        x = add_noise(x_0, eps[t - 1], level)
        said, mix = predict(x, torch.full((len(x_0),), t))
        bits = step_bits(
            Prediction(said, torch.zeros_like(x), mix if t > 1 else None),
            x_0,
            level,
            next_level,
            x=x,
            variance_mix=0.0,
            first_variance=LEAST,
            decoder=density,
        )
        total = total + bits.sum(1)
    return total


def coin_flips(flip: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """1.8: a bit keeps its value with probability gamma and is a fair coin otherwise (2015, table App.1)."""
    count = 2000
    u = ((torch.arange(count) + 0.5) / count).expand(2, count)  # every share of the uniform, so that means are exact
    x_0 = torch.stack([torch.ones(count), -torch.ones(count)])

    def said(gamma: float) -> Tensor:
        return tensor(flip(x_0, torch.full((2,), gamma, dtype=torch.float64), u), x_0.shape)

    yield Property(
        "spins",
        bool((said(0.4).abs() == 1).all()),
        "every bit stays -1 or 1",
        "mỗi bit luôn là -1 hoặc 1",
    )
    yield Property(
        "gamma = 1",
        close(said(1.0), x_0),
        "with gamma = 1 no bit may change",
        "với gamma = 1, không bit nào được thay đổi",
    )
    yield Property(
        "gamma = 0",
        close(said(0.0).mean(1), torch.zeros(2), 2e-3),
        "with gamma = 0 nothing is known of the bit: ups and downs must be equally many",
        "với gamma = 0, không còn biết gì về bit: số lần +1 và -1 phải bằng nhau",
    )
    gamma = 0.2 + 0.5 * torch.rand(1, generator=generator).item()
    yield Property(
        "mean",
        close(said(gamma).mean(1), torch.tensor([gamma, -gamma]), 2e-3),
        "the mean of x_t is gamma x_0, for a bit that was -1 too. Does yours keep too many or too few?",
        "trung bình của x_t là gamma x_0, kể cả với bit bằng -1. Hàm của bạn giữ lại quá nhiều hay quá ít bit?",
    )
    mixed = tensor(flip(x_0, torch.tensor([1.0, 0.0], dtype=torch.float64), u), x_0.shape)
    yield Property(
        "own gamma",
        close(mixed[0], x_0[0]) and close(mixed[1].mean(), 0.0, 2e-3),
        "every example has a gamma of its own",
        "mỗi mẫu có một gamma riêng",
    )


EXERCISES = (
    Exercise("1.1", "count_modes", mode_counting),
    Exercise("1.2", "forward_step", one_step),
    Exercise("1.3", "q_sample", closed_form),
    Exercise("1.4", "posterior", back_with_x_0),
    Exercise("1.5", "reverse_log_variance", learned_variance),
    Exercise("1.6", "kl_bits", divergence),
    Exercise("1.7", "bound_bits", whole_bound),
    Exercise("1.8", "flip", coin_flips),
)
