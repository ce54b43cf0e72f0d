"""What lab 3 asks: holes, Palette's condition and loss, guidance, and figures that can be defended."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.guidance import in_eps
from diffusion_lab.diffusion.losses import over_hole
from diffusion_lab.diffusion.process import add_noise
from diffusion_lab.frechet import frechet_distance
from diffusion_lab.labs.grading import Exercise, Property, Unfit, close, normal, number, tensor
from diffusion_lab.tasks import noise_inside


def some_mask(generator: Generator, batch: int, size: int = 8) -> Tensor:
    """``(B, 1, S, S)`` bool: a box in each, of different areas."""
    mask = torch.zeros(batch, 1, size, size, dtype=torch.bool)
    for i in range(batch):
        top = int(torch.randint(0, 2, (1,), generator=generator))
        mask[i, :, top : top + 2 + i % 4, 1:5] = True
    return mask


def some_level(generator: Generator, batch: int) -> Tensor:
    """``(B,)`` in (.1, .9)."""
    return 0.1 + 0.8 * torch.rand(batch, generator=generator, dtype=torch.float64)


def hole(given: object, size: int) -> Tensor:
    """What a function gave, if it is a mask ``(1, size, size)``; as bool.

    Raises:
        Unwritten: if it gave None.
        Unfit: if it is no mask.
    """
    tensor(given, (1, size, size))
    assert isinstance(given, Tensor)
    if given.dtype != torch.bool:
        raise Unfit(
            Property(
                "bool",
                False,
                f"a mask holds True and False (torch.bool), yours holds {given.dtype}",
                f"mặt nạ chỉ chứa True và False (torch.bool), còn của bạn chứa {given.dtype}",
            )
        )
    return given


def share(mask: Tensor) -> float:
    """Of the picture."""
    return float(mask.float().mean())


def box(rectangle: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """3.1: one box, its sides and its place given by four uniforms, as `masks.rectangle` draws it."""

    def said(u: list[float], size: int = 64, least: float = 0.25, most: float = 0.5) -> Tensor:
        return hole(rectangle(size, torch.tensor(u, dtype=torch.float64), least, most), size)

    def sides(mask: Tensor) -> tuple[int, int]:
        return int(mask[0].any(0).sum()), int(mask[0].any(1).sum())

    middle = said([0.5, 0.5, 0.5, 0.5])
    yield Property(
        "True is the hole",
        0 < share(middle) < 0.5,
        f"a box of at most half of each side is a quarter of the picture or less, "
        f"but {share(middle):.0%} of yours is True",
        f"một hộp dài nhiều nhất nửa cạnh chiếm không quá một phần tư ảnh, nhưng {share(middle):.0%} mặt nạ là True",
    )
    wide = sides(said([1.0, 0.0, 0.5, 0.5]))
    yield Property(
        "width and height",
        abs(wide[0] - 32) <= 1 and abs(wide[1] - 16) <= 1,
        f"u = (1, 0, ...) asks for the widest box (32 of 64 columns) of the least height (16 rows), yours has "
        f"{wide[0]} "
        f"columns and {wide[1]} rows",
        f"u = (1, 0, ...) cần hộp rộng nhất (32 trong 64 cột) và thấp nhất (16 hàng), hộp của bạn có {wide[0]} cột và "
        f"{wide[1]} hàng",
    )
    u = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    small, large = share(said(u, size=32)), share(said(u, size=256))
    yield Property(
        "a share",
        abs(small - large) < 0.04,
        "least and most are shares of the side: the same u in a larger picture must cover the same share of it",
        "least và most là tỉ lệ so với cạnh ảnh: cùng một u, ở ảnh lớn hơn hộp phải chiếm cùng một tỉ lệ",
    )
    corner = said([0.5, 0.5, 1.0, 1.0])
    yield Property(
        "whole at the border",
        all(abs(a - b) <= 1 for a, b in zip(sides(corner), sides(middle), strict=True)),
        "at the border the box is cut off: where may its left edge lie, given its width?",
        "ở mép ảnh, hộp bị cắt mất một phần: biết bề rộng rồi thì mép trái được phép nằm ở đâu?",
    )
    first = said([0.0, 0.0, 0.0, 0.0])
    last = said([0.0, 0.0, 1.0, 1.0])
    yield Property(
        "everywhere",
        bool(first[0, 0, 0] & last[0, -1, -1]),
        "some pixels are never in a hole: with u = 0 the smallest box lies in the first corner, with u = 1 in the last",
        "có những pixel không bao giờ rơi vào lỗ: với u = 0 hộp nhỏ nhất nằm ở góc đầu, với u = 1 ở góc cuối",
    )


def brush(stroke: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """3.2: the pixels whose middle is at most half a width away from a line."""

    def said(points: list[tuple[float, float]], width: float, size: int = 64) -> Tensor:
        return hole(stroke(size, torch.tensor(points, dtype=torch.float64), width), size)

    line = said([(0.25, 0.5), (0.75, 0.5)], 0.125)
    yield Property(
        "True is the hole",
        0 < share(line) < 0.5,
        f"a short thin stroke covers little of the picture, but {share(line):.0%} of yours is True",
        f"một nét cọ ngắn và mảnh chỉ che một phần nhỏ của ảnh, nhưng {share(line):.0%} mặt nạ là True",
    )
    columns, rows = int(line[0].any(0).sum()), int(line[0].any(1).sum())
    yield Property(
        "x, y",
        columns > rows,
        "a point is (x, y) and x runs along a row: a stroke from (.25, .5) to (.75, .5) lies flat, yours stands",
        "mỗi điểm là (x, y), x chạy theo hàng: nét từ (.25, .5) đến (.75, .5) phải nằm ngang, của bạn lại đứng",
    )
    yield Property(
        "ends",
        not bool(line[0, :, :4].any() | line[0, :, -4:].any()),
        "the stroke goes on beyond its ends: the nearest point of a segment is not always the foot of the "
        "perpendicular",
        "nét cọ kéo dài quá hai đầu: điểm gần nhất trên một đoạn thẳng không phải lúc nào cũng là chân đường vuông góc",
    )
    thick = int(line[0, :, 32].sum())
    yield Property(
        "width",
        abs(thick - 8) <= 1,
        f"width .125 of 64 pixels is 8 pixels, your stroke is {thick} thick",
        f"width .125 của 64 pixel là 8 pixel, nét của bạn dày {thick} pixel",
    )
    corner = said([(0.2, 0.2), (0.8, 0.2), (0.8, 0.8)], 0.1)
    yield Property(
        "every segment",
        bool(corner[0, 12, 32] & corner[0, 32, 51]),
        "a stroke of three points has two segments, and a pixel near any of them is covered",
        "nét cọ qua ba điểm có hai đoạn, pixel ở gần bất kỳ đoạn nào cũng bị che",
    )
    yield Property(
        "open",
        not bool(corner[0, 32, 32]),
        "the last point is joined with the first: the brush was lifted there",
        "điểm cuối bị nối về điểm đầu: ở đó cọ đã nhấc lên rồi",
    )
    dot = share(said([(0.5, 0.5), (0.5, 0.5)], 0.25))
    yield Property(
        "a dot",
        abs(dot - 0.0491) < 0.008,
        "a brush that does not move leaves a round dot. What does your formula do with a segment of length 0?",
        "cọ đứng yên để lại một chấm tròn. Với đoạn có độ dài 0, công thức của bạn cho ra gì?",
    )
    points = torch.rand(4, 2, generator=generator).tolist()
    small, large = share(said(points, 0.12, 32)), share(said(points, 0.12, 128))
    yield Property(
        "a share",
        abs(small - large) < 0.03,
        "points and width are shares of the side: in a larger picture the stroke covers the same share",
        "các điểm và width là tỉ lệ so với cạnh ảnh: ở ảnh lớn hơn, nét cọ vẫn che cùng một tỉ lệ",
    )


def beside_x(condition: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """3.3: what Palette's network sees beside x (section 4.2), with a mask channel."""
    image, fill, mask = normal(generator, 3, 3, 8, 8).tanh(), normal(generator, 3, 3, 8, 8), some_mask(generator, 3)
    inside = mask.expand(3, 3, 8, 8)
    given = tensor(condition(image, mask, fill), (3, 4, 8, 8))
    seen, channel = given[:, :3], given[:, 3:]
    yield Property(
        "known pixels",
        close(seen[~inside], image[~inside]),
        "the network must see the known pixels as they are. Which side of the mask is known?",
        "mạng phải thấy các pixel đã biết đúng như chúng vốn có. Phía nào của mặt nạ là phần đã biết?",
    )
    other = torch.where(mask, image.flip(0), image)
    yield Property(
        "no peeping",
        close(seen, tensor(condition(other, mask, fill), (3, 4, 8, 8))[:, :3]),
        "another picture in the hole changes what the network sees: it would read the answer off in training, and be "
        "lost when there is none",
        "thay ảnh bên trong lỗ làm thay đổi cái mạng nhìn thấy: khi huấn luyện nó sẽ chép đáp án, đến lúc không có đáp "
        "án thì nó bó tay",
    )
    yield Property(
        "noise in the hole",
        close(seen[inside], fill[inside]),
        "no noise in the hole: a constant there looks like a known pixel of that colour",
        "trong lỗ không có nhiễu: một hằng số ở đó trông y như một pixel đã biết mang màu ấy",
    )
    yield Property(
        "mask channel",
        close(channel, mask.double() * 2 - 1),
        "the last channel tells the hole (1) from what is known (-1)",
        "kênh cuối phân biệt lỗ (1) với phần đã biết (-1)",
    )
    wanted = Condition(noise_inside(image, mask, fill), mask).channels(image, 4)
    yield Property(
        "library",
        close(given, wanted),
        "on random input yours is not what the library's network sees",
        "với dữ liệu ngẫu nhiên, kết quả khác với những gì mạng của thư viện nhìn thấy",
    )


def loss_on_the_hole(hole_loss: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """3.4, beside `losses.over_hole`."""
    mask = some_mask(generator, 4)

    def said(error: Tensor, mask: Tensor) -> Tensor:
        wanted = normal(generator, *error.shape)
        return tensor(hole_loss(wanted + error, wanted, mask), (len(error),))

    ones = torch.ones(4, 3, 8, 8, dtype=torch.float64)
    yield Property(
        "hole",
        bool((said(ones * mask, mask) > 0).all()),
        "an error in the hole costs nothing",
        "sai số ở trong lỗ không bị tính gì cả",
    )
    yield Property(
        "known pixels",
        close(said(ones * ~mask, mask), torch.zeros(4)),
        "an error at known pixels costs something: they are put back anyway, and need not be learned",
        "sai số ở các pixel đã biết vẫn bị tính: đằng nào chúng cũng được đặt lại, không cần học",
    )
    yield Property(
        "area",
        close(said(ones[:1, :1], mask[:1]), 1.0 + torch.zeros(1)),
        "the error is 1 at each pixel of the hole, so that its mean over the hole is 1. What does yours divide by?",
        "sai số bằng 1 tại mọi pixel của lỗ nên trung bình trên lỗ phải bằng 1. Hàm của bạn đang chia cho cái gì?",
    )
    yield Property(
        "channels",
        close(said(ones[:1], mask[:1]), 1.0 + torch.zeros(1)),
        "with one channel the mean is right, with three it is not: the mask has one channel, the picture three",
        "với một kênh thì đúng, với ba kênh lại sai: mặt nạ có một kênh, còn ảnh có ba",
    )
    yield Property(
        "own area",
        close(said(ones, mask), torch.ones(4)),
        "each picture's mean is over its own hole: small holes must weigh as much as large ones",
        "trung bình của mỗi ảnh lấy trên lỗ của chính nó: lỗ nhỏ phải có trọng lượng như lỗ lớn",
    )
    yield Property(
        "square",
        close(said(3 * ones, mask), 9 * torch.ones(4)),
        "an error of 3 everywhere costs 9: mean *squared* error",
        "sai số bằng 3 ở mọi nơi thì loss là 9: trung bình *bình phương* sai số",
    )
    wild = torch.where(mask, 1.0, torch.inf).double().expand(4, 3, 8, 8)
    yield Property(
        "anything outside",
        close(said(wild, mask), torch.ones(4)),
        "outside the hole the output is untrained and may be anything, even infinite; 0 times infinity is no number",
        "ngoài lỗ, đầu ra không được huấn luyện nên có thể là bất cứ gì, kể cả vô cùng; mà 0 nhân vô cùng không phải "
        "là số",
    )
    yield Property(
        "no hole",
        close(said(ones, torch.zeros_like(mask)), torch.zeros(4)),
        "a picture without a hole costs 0, not 0 / 0",
        "ảnh không có lỗ thì loss bằng 0, không phải 0 / 0",
    )
    error = normal(generator, 4, 3, 8, 8)
    yield Property(
        "library",
        close(said(error, mask), over_hole(error.square(), mask)),
        "on random errors yours is not diffusion_lab.diffusion.losses.over_hole",
        "với sai số ngẫu nhiên, kết quả khác với diffusion_lab.diffusion.losses.over_hole",
    )


def known_again(keep_known: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """3.5: the hole of x, and the known pixels at a level: compositing at 1, replacement below."""
    batch = 4
    x, eps = normal(generator, batch, 3, 8, 8), normal(generator, batch, 3, 8, 8)
    image, mask, level = (
        normal(generator, batch, 3, 8, 8).tanh(),
        some_mask(generator, batch),
        some_level(generator, batch),
    )
    inside = mask.expand_as(x)
    one = torch.ones(batch, dtype=torch.float64)

    def said(x: Tensor, level: Tensor) -> Tensor:
        return tensor(keep_known(x, image, mask, level, eps), x.shape)

    yield Property(
        "hole",
        torch.equal(said(x, one)[inside], x[inside]),
        "in the hole x is kept bit for bit: that is what the model has made",
        "trong lỗ, x phải được giữ nguyên từng bit: đó là phần mô hình đã vẽ",
    )
    yield Property(
        "clean at level 1",
        torch.equal(said(x, one)[~inside], image[~inside]),
        "at level 1 there is no noise: the known pixels are the picture's, bit for bit",
        "ở mức 1 không còn nhiễu: các pixel đã biết phải đúng là của ảnh, từng bit một",
    )
    yield Property(
        "noise at level 0",
        close(said(x, 0 * one)[~inside], eps[~inside]),
        "at level 0 nothing but the noise is left of the known pixels. Yours shows the model what the hole's "
        "neighbours look like long before the hole can answer",
        "ở mức 0, phần đã biết chỉ còn là nhiễu. Hàm của bạn cho mô hình thấy vùng quanh lỗ quá sớm, khi trong lỗ vẫn "
        "còn "
        "là nhiễu",
    )
    unit = image.square() + eps.square()
    power = said(x, level).square() + tensor(keep_known(x, -eps, mask, level, image), x.shape).square()
    yield Property(
        "power",
        close(power[~inside], unit[~inside]),
        "signal and noise are mixed so that the variance stays 1: gamma and 1 - gamma are variances, not factors",
        "tín hiệu và nhiễu được trộn sao cho phương sai luôn bằng 1: gamma và 1 - gamma là phương sai, không phải hệ "
        "số",
    )
    alone = torch.cat(
        [tensor(keep_known(*(v[i : i + 1] for v in (x, image, mask, level, eps))), (1, 3, 8, 8)) for i in range(batch)]
    )
    yield Property(
        "own level",
        close(said(x, level), alone),
        "every picture has a level of its own",
        "mỗi ảnh có một mức (level) riêng",
    )
    wild = torch.where(mask, x, torch.nan)
    yield Property(
        "anything outside",
        bool(said(wild, level).isfinite().all()),
        "what the model said of known pixels is never looked at, even if it is no number",
        "những gì mô hình nói về các pixel đã biết không được dùng đến, kể cả khi nó không phải là số",
    )
    yield Property(
        "library",
        close(said(x, level), torch.where(mask, x, add_noise(image, eps, level))),
        "on random input yours is not the library's replacement",
        "với dữ liệu ngẫu nhiên, kết quả khác với phép thay thế (replacement) của thư viện",
    )


def uphill(guided_eps: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """3.7: eps - sigma scale grad log p(y | x) (Dhariwal & Nichol 2021, algorithm 2)."""
    x, eps, w = (normal(generator, 3, 2, 4, 4) for _ in range(3))
    level = some_level(generator, 3)

    def line(x: Tensor) -> Tensor:
        return (w[: len(x)] * x).flatten(1).sum(1)

    def bowl(x: Tensor) -> Tensor:
        return -(w[: len(x)] - x).square().flatten(1).sum(1)

    def said(scale: float, log_p: Callable[[Tensor], Tensor] = line, rows: int = 3) -> Tensor:
        return tensor(guided_eps(eps[:rows], x[:rows], level[:rows], log_p, scale), (rows, 2, 4, 4))

    yield Property(
        "scale 0",
        close(said(0.0), eps),
        "with scale 0 nobody guides, and eps stays",
        "với scale bằng 0 thì không có dẫn hướng, eps giữ nguyên",
    )
    moved = (said(2.0) - eps) * w
    yield Property(
        "uphill",
        bool((moved.flatten(1).sum(1) < 0).all()),
        "what you take for noise makes the wanted class *less* likely once it is taken away: which way does eps move?",
        "sau khi khử nhiễu theo eps của bạn, lớp mong muốn lại *ít* khả năng hơn: eps phải dịch về phía nào?",
    )
    yield Property(
        "each picture",
        close(said(1.0)[:1], said(1.0, rows=1)),
        "a picture is guided less in company than alone: whose log-probability do you differentiate?",
        "cùng một ảnh, đứng chung batch lại được dẫn hướng yếu hơn đứng một mình: bạn đang lấy đạo hàm của đại lượng "
        "nào?",
    )
    sigma = (1 - level).sqrt().reshape(-1, 1, 1, 1)
    yield Property(
        "sigma",
        close(said(1.0), eps - sigma * w),
        "the direction is right, the length is not: the score is -eps / sigma, and sigma is not the variance",
        "hướng đã đúng nhưng độ dài sai: score là -eps / sigma, và sigma không phải là phương sai",
    )
    prediction = in_eps(Prediction(x, eps), x, level, 0.7 * 2 * (w - x))
    yield Property(
        "library",
        close(said(0.7, bowl), prediction.eps),
        "with a log-probability that bends yours is not the library's",
        "với một log xác suất cong, kết quả khác với thư viện",
    )
    with torch.no_grad():
        try:
            there = close(said(0.7, bowl), prediction.eps)
        except RuntimeError:
            there = False
    yield Property(
        "while sampling",
        there,
        "sampling runs under torch.no_grad(), where your gradient is not to be had",
        "lúc lấy mẫu, mã chạy trong torch.no_grad(), và ở đó bạn không lấy được gradient",
    )


def paired(paired_interval: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """3.6: the percentile bootstrap of a mean paired difference, as `bootstrap.interval`."""
    n = 60
    theirs = normal(generator, n)
    ours = theirs + 0.05 + 0.1 * normal(generator, n)
    draws = torch.randint(0, n, (2000, n), generator=generator)

    def said(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
        given = paired_interval(ours, theirs, draws)
        low, high = given if isinstance(given, tuple | list) and len(given) == 2 else (given, given)
        return number(low), number(high)

    shifted = said(theirs + 0.3, theirs)
    yield Property(
        "sign",
        shifted[1] > 0,
        "ours is .3 higher in each picture, yet your interval lies at or below 0: it is about ours - theirs",
        "mọi ảnh của ours đều cao hơn .3, vậy mà khoảng của bạn nằm từ 0 trở xuống: cần xét ours - theirs",
    )
    yield Property(
        "paired",
        close(shifted[0], 0.3) and close(shifted[1], 0.3),
        "ours is exactly .3 higher in each picture, so that no draw of pictures can say anything else. Are both "
        "methods "
        "seen on the same pictures?",
        "mọi ảnh của ours đều cao hơn đúng .3, nên dù bốc ảnh thế nào cũng không thể ra số khác. Hai phương pháp có "
        "đang "
        "được xem trên cùng những ảnh ấy không?",
    )
    low, high = said(ours, theirs)
    difference = ours - theirs
    yield Property(
        "of the mean",
        (high - low) < 2 * float(difference.std()),
        "your interval holds most *pictures*; it should hold the *mean* over pictures, which scatters less",
        "khoảng của bạn chứa hầu hết các *ảnh*; cần khoảng chứa *trung bình* trên các ảnh, vốn ít dao động hơn",
    )
    means = difference.numpy()[draws.numpy()].mean(1)
    wanted = np.quantile(means, [0.025, 0.975])
    spread = float(wanted[1] - wanted[0])
    yield Property(
        "95 %",
        abs(low - wanted[0]) < 0.03 * spread and abs(high - wanted[1]) < 0.03 * spread,
        f"your interval is {(high - low) / spread:.2f} times as wide as that which leaves 2.5 % of the draws on each "
        "side",
        f"khoảng của bạn rộng gấp {(high - low) / spread:.2f} lần khoảng chừa lại 2.5% số lần bốc ở mỗi phía",
    )


def between_gaussians(frechet: Callable[..., Any], generator: Generator) -> Iterator[Property]:
    """3.8: |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), beside `frechet.frechet_distance`."""

    def said(real: Tensor, fake: Tensor) -> float:
        return number(frechet(real, fake))

    real = normal(generator, 40, 3)
    yield Property(
        "same",
        close(said(real, real), 0.0, 1e-3),
        "a set compared with itself is at distance 0",
        "một tập so với chính nó thì khoảng cách phải bằng 0",
    )
    move = normal(generator, 3)
    yield Property(
        "means",
        close(said(real, real + move), float(move.square().sum()), 1e-3),
        "the same cloud moved by a vector: the distance is the vector's squared length",
        "cùng một đám mây, dời đi một vectơ: khoảng cách là bình phương độ dài của vectơ đó",
    )
    line = real[:, :1] - real[:, :1].mean()
    yield Property(
        "variances",
        close(said(line, 3 * line), 4 * float(line.var()), 0.05),
        "in one dimension the spreads add (sigma_1 - sigma_2)^2. Which power of sigma is a covariance, and how often "
        "does "
        "the root count?",
        "trong một chiều, độ rộng góp thêm (sigma_1 - sigma_2)^2. Hiệp phương sai là sigma mũ mấy, và căn được tính "
        "mấy lần?",
    )
    stretched, turned = normal(generator, 200, 2) * torch.tensor([3.0, 0.5]), normal(generator, 200, 2)
    turned = turned * torch.tensor([2.0, 0.3]) @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64)
    yield Property(
        "matrix root",
        close(said(stretched, turned), float(frechet_distance(stretched, turned)), 0.02),
        "right for clouds along the same axes, wrong for one that is turned: a matrix's root is no root of its "
        "entries, "
        "and S_1 and S_2 do not commute",
        "đúng khi hai đám mây cùng trục, sai khi một đám bị xoay: căn của ma trận không phải căn từng phần tử, và "
        "S_1, S_2 "
        "không giao hoán",
    )
    few, others = normal(generator, 6, 2), normal(generator, 9, 2)
    yield Property(
        "library",
        close(said(few, others), float(frechet_distance(few, others)), 1e-3),
        "with few examples yours is not diffusion_lab.frechet's: of how many is an unbiased covariance the mean?",
        "với ít mẫu, kết quả khác với diffusion_lab.frechet: hiệp phương sai không chệch chia cho bao nhiêu?",
    )


EXERCISES = (
    Exercise("3.1", "rectangle", box),
    Exercise("3.2", "stroke", brush),
    Exercise("3.3", "condition", beside_x),
    Exercise("3.4", "hole_loss", loss_on_the_hole),
    Exercise("3.5", "keep_known", known_again),
    Exercise("3.6", "paired_interval", paired),
    Exercise("3.7", "guided_eps", uphill),
    Exercise("3.8", "frechet", between_gaussians),
)
