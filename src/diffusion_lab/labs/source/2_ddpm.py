# %% [markdown] lang="en"
r"""
# Lab 2. DDPM, 2020

*Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models. Song, Meng, Ermon: Denoising Diffusion Implicit Models.*

The model of lab 1 becomes a picture generator: predict the noise, forget the weights of the bound, and give the job to a
UNet. You write all of it, the network included, and end with digits that come out of noise.

**You need** lab 1, or to know $q(x_t \mid x_0)$; convolutions. **Time** about 55 minutes, of which 5 to 12 are waiting on
two CPU cores (a GPU is used if there is one).

| here | in the papers |
|---|---|
| `table` | $\bar\alpha_0 \dots \bar\alpha_T$, $T + 1$ numbers: **`table[t]` is $\bar\alpha_t$**, `table[0]` is 1 |
| `eps`, `eps_hat` | the noise $\epsilon$, and what the network says of it, $\epsilon_\theta(x_t, t)$ |
| `z` | fresh noise of a step back |
"""

# %% [markdown] lang="vi"
r"""
# Lab 2. DDPM, 2020

*Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models. Song, Meng, Ermon: Denoising Diffusion Implicit Models.*

Mô hình của lab 1 nay trở thành bộ sinh ảnh: dự đoán nhiễu, bỏ các trọng số của cận trên, và giao việc cho một mạng UNet.
Bạn sẽ tự viết tất cả, kể cả mạng, và kết thúc bằng những chữ số hiện ra từ nhiễu.

**Cần biết trước:** lab 1, hoặc công thức $q(x_t \mid x_0)$; tích chập (convolution). **Thời gian:** khoảng 55 phút, trong đó
chờ 5 đến 12 phút trên hai nhân CPU (có GPU thì máy sẽ dùng GPU).

| trong bài | trong các bài báo |
|---|---|
| `table` | $\bar\alpha_0 \dots \bar\alpha_T$, gồm $T + 1$ số: **`table[t]` là $\bar\alpha_t$**, `table[0]` bằng 1 |
| `eps`, `eps_hat` | nhiễu $\epsilon$, và dự đoán của mạng về nó, $\epsilon_\theta(x_t, t)$ |
| `z` | nhiễu mới ở mỗi bước lùi |
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
import math
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from diffusion_lab.labs import check

LANGUAGE = "en"
check = partial(check, language=LANGUAGE)
generator = torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def per_example(c, x):
    """Numbers ``(B,)``, one for each example, shaped so that they multiply x ``(B, ...)``."""
    return c.to(x).view(-1, *[1] * (x.ndim - 1))


def show(pictures, title="", columns=16):
    """Draws pictures ``(N, 1, H, W)`` in [-1, 1] side by side."""
    rows = [torch.cat(list(row), dim=2) for row in pictures.detach().cpu().split(columns)]
    plt.figure(figsize=(10, 0.7 * len(rows) + 0.3))
    plt.imshow(torch.cat(rows, dim=1)[0].numpy(), cmap="gray", vmin=-1, vmax=1)
    plt.title(title)
    plt.axis("off")
    plt.show()


# %% [markdown] lang="en"
r"""
## 1. The schedule

### Exercise 2.1: a table of what is left

DDPM's betas lie on a line from $\beta_1$ = `start` to $\beta_T$ = `end` (section 4), and $\bar\alpha_t = \prod_{s \le t} (1 -
\beta_s)$. Put $\bar\alpha_0 = 1$ in front: then no index is special, and the off-by-one errors of lab 1 are gone for good.
"""

# %% [markdown] lang="vi"
r"""
## 1. Lịch nhiễu (noise schedule)

### Bài 2.1: bảng những gì còn lại

Các beta của DDPM nằm trên một đường thẳng từ $\beta_1$ = `start` đến $\beta_T$ = `end` (mục 4), và $\bar\alpha_t =
\prod_{s \le t} (1 - \beta_s)$. Hãy đặt $\bar\alpha_0 = 1$ lên đầu: khi đó không còn chỉ số nào đặc biệt, và các lỗi lệch
một đơn vị (off-by-one) của lab 1 biến mất hẳn.
"""


# %% exercise="2.1"
def linear_alpha_bar(T, start, end):
    """alpha-bar_0 to alpha-bar_T, float64 (T + 1,), for betas on a line from start to end."""
    betas = torch.linspace(start, end, T, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


check("2.1", linear_alpha_bar)

# %%
from diffusion_lab.diffusion.process import add_noise  # your q_sample of lab 1, told alpha-bar instead of betas and t
from diffusion_lab.diffusion.schedule import cosine
from diffusion_lab.labs.digits import digits

T = 400
table = linear_alpha_bar(T, 1e-4 * 1000 / T, 0.02 * 1000 / T)  # DDPM's, for T = 400 instead of 1,000
pictures, numbers = digits(6000, generator)
plt.figure(figsize=(6, 3))
plt.plot(torch.linspace(0, 1, T + 1), table, label="linear (yours)")
plt.plot(torch.linspace(0, 1, T + 1), cosine(T).alpha_bar, label="cosine (Nichol & Dhariwal, eq. 17)")
plt.gca().set(xlabel="t / T", ylabel=r"$\bar\alpha_t$")
plt.legend()
plt.show()
show(pictures[:32], "data")
t = torch.linspace(0, T, 16).long()
show(
    add_noise(pictures[:1].expand(16, -1, -1, -1), torch.randn(16, 1, 16, 16, generator=generator), table[t]),
    "t = 0 ... T",
)

# %% [markdown] lang="en"
r"""
The digits are drawn with a font, so that nothing is downloaded. They stand in $[-1, 1]$: **keep that range**. If your
samples come out grey or with shifted colours, look here first: data in $[0, 1]$ or $[0, 255]$, or a figure that
stretches each picture by its own minimum and maximum, are the usual causes.

## 2. The loss

### Exercise 2.2: predict the noise

Written in $\epsilon$ and without its weights, the bound of lab 1 becomes one line:

$$L_\text{simple} = \mathbb E_{t, x_0, \epsilon} \big\| \epsilon - \epsilon_\theta\big(\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon,\ t\big) \big\|^2 \qquad \text{(DDPM eq. 14)}$$

As everybody does, take the **mean** over batch and pixels, so that the learning rate does not depend on their number.
"""

# %% [markdown] lang="vi"
r"""
Các chữ số được vẽ bằng phông chữ nên không phải tải gì về. Giá trị pixel nằm trong $[-1, 1]$: **hãy giữ đúng khoảng này**.
Nếu mẫu sinh ra bị xám hoặc lệch màu, hãy kiểm tra chỗ này trước tiên: dữ liệu trong $[0, 1]$ hoặc $[0, 255]$, hay hàm vẽ tự
kéo giãn từng ảnh theo giá trị nhỏ nhất và lớn nhất của nó, là những nguyên nhân thường gặp.

## 2. Hàm mất mát (loss)

### Bài 2.2: dự đoán nhiễu

Viết theo $\epsilon$ và bỏ các trọng số, cận trên của lab 1 chỉ còn một dòng:

$$L_\text{simple} = \mathbb E_{t, x_0, \epsilon} \big\| \epsilon - \epsilon_\theta\big(\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon,\ t\big) \big\|^2 \qquad \text{(DDPM eq. 14)}$$

Theo thông lệ, hãy lấy **trung bình** trên cả batch và các pixel, để tốc độ học (learning rate) không phụ thuộc vào số lượng
của chúng.
"""


# %% exercise="2.2"
def epsilon_loss(network, x_0, t, eps, table):
    """L_simple, one number.

    network(x_t, t) -> like x_t, x_0 and eps (B, C, H, W), t (B,) integers in 1..T, table (T + 1,)
    """
    alpha_bar = per_example(table[t.to(table.device)], x_0)
    x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
    return (network(x_t, t) - eps).square().mean()


check("2.2", epsilon_loss)

# %% [markdown] lang="en"
r"""
## 3. Sampling

### Exercise 2.3: the ancestral step

DDPM's algorithm 2, line 4, with $\sigma_t^2 = \beta_t$:

$$x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \Big( x_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}}\, \epsilon_\theta(x_t, t) \Big) + \sigma_t z, \qquad z = 0 \;\; (t = 1)$$

where $\alpha_t = 1 - \beta_t = \bar\alpha_t / \bar\alpha_{t-1}$. It is the posterior mean of lab 1, with $\hat x_0$ written
in $\epsilon$: check that on paper if you have a minute.
"""

# %% [markdown] lang="vi"
r"""
## 3. Lấy mẫu (sampling)

### Bài 2.3: bước lùi của DDPM (ancestral step)

Thuật toán 2 của DDPM, dòng 4, với $\sigma_t^2 = \beta_t$:

$$x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \Big( x_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}}\, \epsilon_\theta(x_t, t) \Big) + \sigma_t z, \qquad z = 0 \;\; (t = 1)$$

trong đó $\alpha_t = 1 - \beta_t = \bar\alpha_t / \bar\alpha_{t-1}$. Đây chính là trung bình hậu nghiệm (posterior mean) của
lab 1, với $\hat x_0$ viết theo $\epsilon$: nếu có một phút, hãy kiểm tra trên giấy.
"""


# %% exercise="2.3"
def ancestral_step(x_t, eps_hat, t, table, z):
    """x_(t-1). t is a number in 1..T, the same for the batch; z is fresh noise like x_t, not used at t = 1."""
    alpha = float(table[t] / table[t - 1])
    beta, left = 1 - alpha, 1 - float(table[t])
    mean = (x_t - beta / math.sqrt(left) * eps_hat) / math.sqrt(alpha)
    return mean + math.sqrt(beta) * z if t > 1 else mean


check("2.3", ancestral_step)

# %% [markdown] lang="en"
r"""
### Exercise 2.4: DDIM, the sibling

The loss knows only $q(x_t \mid x_0)$, so that the same network serves any process with these margins, also one that jumps
from $t$ to any $s < t$. First $\hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\,\hat\epsilon) / \sqrt{\bar\alpha_t}$, then

$$x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\; \hat\epsilon + \sigma z, \qquad
\sigma = \eta \sqrt{\frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}} \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}} \qquad \text{(DDIM eq. 12, 16)}$$

$\eta = 0$ is deterministic; $\eta = 1$ with $s = t - 1$ is DDPM's step with the smaller variance $\tilde\beta_t$.
"""

# %% [markdown] lang="vi"
r"""
### Bài 2.4: DDIM, người anh em

Hàm mất mát chỉ biết $q(x_t \mid x_0)$, nên cùng một mạng dùng được cho mọi quá trình có các phân phối biên (marginal) này,
kể cả quá trình nhảy từ $t$ tới $s < t$ bất kỳ. Trước hết $\hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\,\hat\epsilon) /
\sqrt{\bar\alpha_t}$, sau đó

$$x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\; \hat\epsilon + \sigma z, \qquad
\sigma = \eta \sqrt{\frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}} \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}} \qquad \text{(DDIM eq. 12, 16)}$$

$\eta = 0$ cho bước tất định (deterministic); $\eta = 1$ với $s = t - 1$ là bước của DDPM với phương sai nhỏ hơn, $\tilde\beta_t$.
"""


# %% exercise="2.4"
def ddim_step(x_t, eps_hat, t, s, table, eta, z):
    """x_s. t > s are numbers in 0..T, eta a number in [0, 1], z fresh noise like x_t."""
    now, then = float(table[t]), float(table[s])
    x_0_hat = (x_t - math.sqrt(1 - now) * eps_hat) / math.sqrt(now)
    sigma = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
    return math.sqrt(then) * x_0_hat + math.sqrt(max(0.0, 1 - then - sigma**2)) * eps_hat + sigma * z


check("2.4", ddim_step)

# %% [markdown] lang="en"
r"""
## 4. The network, block by block

### Exercise 2.5: a clock

The network must know $t$. A number from 1 to 1,000 is a poor input: neighbours look alike. So $t$ is written like a clock
with many hands, fast and slow (Vaswani et al. 2017, section 3.5): for $i = 0, 1, \dots, w/2 - 1$

$$\omega_i = 10000^{-i / (w/2)}, \qquad \text{embedding} = \big(\cos \omega_0 t, \dots, \cos \omega_{w/2-1} t,\ \sin \omega_0 t, \dots, \sin \omega_{w/2-1} t\big)$$
"""

# %% [markdown] lang="vi"
r"""
## 4. Mạng nơ-ron, từng khối một

### Bài 2.5: chiếc đồng hồ (time embedding)

Mạng cần biết $t$. Đưa thẳng một số từ 1 đến 1000 vào thì không tốt: các số cạnh nhau trông giống hệt nhau. Vì vậy ta viết
$t$ như một chiếc đồng hồ nhiều kim, kim nhanh kim chậm (Vaswani và cộng sự 2017, mục 3.5): với $i = 0, 1, \dots, w/2 - 1$

$$\omega_i = 10000^{-i / (w/2)}, \qquad \text{embedding} = \big(\cos \omega_0 t, \dots, \cos \omega_{w/2-1} t,\ \sin \omega_0 t, \dots, \sin \omega_{w/2-1} t\big)$$
"""


# %% exercise="2.5"
def time_embedding(t, width):
    """Cosines, then sines, of t (B,) at width / 2 frequencies: (B, width)."""
    i = torch.arange(width // 2, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(10_000) * i / (width // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


check("2.5", time_embedding)

# %%
plt.figure(figsize=(8, 2.5))
plt.imshow(time_embedding(torch.arange(T), 32).T.numpy(), aspect="auto", cmap="RdBu", interpolation="nearest")
plt.gca().set(xlabel="t", ylabel="place")
plt.show()

# %% [markdown] lang="en"
r"""
### Exercise 2.6: a residual block

The layers are there; write `forward`. Norm, then activation (`F.silu`), then convolution, twice; the embedding joins in
between, one number for each channel:

$$h = \text{conv}_\text{in}(\text{silu}(\text{norm}_\text{in}(x))) + \text{embed}(\text{embedding}) \qquad (h)$$
$$\text{out} = \text{shortcut}(x) + \text{conv}_\text{out}(\text{silu}(\text{norm}_\text{out}(h)))$$

The last convolution starts at zero, so that every block starts by changing nothing: a deep network then learns from the
first step.
"""

# %% [markdown] lang="vi"
r"""
### Bài 2.6: khối residual (residual block)

Các lớp đã có sẵn; hãy viết `forward`. Chuẩn hoá (norm), rồi kích hoạt (`F.silu`), rồi tích chập, hai lần như vậy;
embedding được cộng vào ở giữa, mỗi kênh (channel) một số:

$$h = \text{conv}_\text{in}(\text{silu}(\text{norm}_\text{in}(x))) + \text{embed}(\text{embedding}) \qquad (h)$$
$$\text{out} = \text{shortcut}(x) + \text{conv}_\text{out}(\text{silu}(\text{norm}_\text{out}(h)))$$

Tích chập cuối khởi đầu bằng 0, nên lúc đầu mỗi khối không thay đổi gì: nhờ vậy mạng sâu học được ngay từ bước đầu tiên.
"""


# %% exercise="2.6"
class ResBlock(nn.Module):
    """Two convolutions and the time, beside a shortcut."""

    def __init__(self, c_in, c_out, embedding):
        super().__init__()
        self.norm_in = nn.GroupNorm(8, c_in)
        self.conv_in = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.embed = nn.Linear(embedding, c_out)
        self.norm_out = nn.GroupNorm(8, c_out)
        self.conv_out = nn.Conv2d(c_out, c_out, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, embedding):
        """x (B, c_in, H, W), embedding (B, embedding) -> (B, c_out, H, W)."""
        h = self.conv_in(F.silu(self.norm_in(x))) + self.embed(embedding)[:, :, None, None]
        return self.shortcut(x) + self.conv_out(F.silu(self.norm_out(h)))


check("2.6", ResBlock)

# %% [markdown] lang="en"
r"""
### Exercise 2.7: attention

A convolution sees three pixels at a time. Attention lets every **pixel** look at every other and take the average of what
it finds there. With the $N = H \cdot W$ pixels as rows of $Q, K, V$, each of width $C$:

$$\text{attention}(Q, K, V) = \text{softmax}\big(Q K^\top / \sqrt{C}\big)\, V \qquad \text{(Vaswani et al. 2017, eq. 1)}$$

The pictures come as `(B, C, H, W)`. Say aloud which axis is the pixels and which the channels before you multiply.
"""

# %% [markdown] lang="vi"
r"""
### Bài 2.7: attention

Tích chập mỗi lần chỉ thấy ba pixel cạnh nhau. Với attention (cơ chế chú ý), mỗi **pixel** nhìn được mọi pixel khác và lấy
trung bình những gì nó tìm thấy. Gọi $N = H \cdot W$ pixel là các hàng của $Q, K, V$, mỗi hàng rộng $C$:

$$\text{attention}(Q, K, V) = \text{softmax}\big(Q K^\top / \sqrt{C}\big)\, V \qquad \text{(Vaswani et al. 2017, eq. 1)}$$

Dữ liệu vào có dạng `(B, C, H, W)`. Trước khi nhân, hãy tự nói rõ trục nào là pixel, trục nào là kênh.
"""


# %% exercise="2.7"
def attention(q, k, v):
    """Every pixel's average of v over all pixels: all (B, C, H, W)."""
    q_, k_, v_ = (part.flatten(2).mT for part in (q, k, v))  # (B, HW, C)
    weights = torch.softmax(q_ @ k_.mT / math.sqrt(q.shape[1]), dim=-1)  # (B, HW, HW)
    return (weights @ v_).mT.reshape(v.shape)


check("2.7", attention)


# %%
class Attention(nn.Module):
    """Your attention between two layers that make q, k, v and read the answer, beside a shortcut."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x):
        """(B, channels, H, W) -> the same."""
        return x + self.out(attention(*self.qkv(self.norm(x)).chunk(3, dim=1)))


# %% [markdown] lang="en"
r"""
### Exercise 2.8: the UNet

Down to half the size, and up again; on the way up each block also reads what the block of the same size saw on the way
down (`torch.cat(..., dim=1)`), so that fine detail need not squeeze through the middle.

```
x -> conv_in -> down_fine ----------------------------> cat -> up_fine -> out
                    |                                    ^
                  shrink                                grow
                    |                                    |
                    +-> down_coarse -------------> cat -> up_coarse
                             |                      ^
                             +-> attend -> middle --+        out: norm_out, silu, conv_out
```

`self.embed(time_embedding(t, self.channels))` is the embedding that every `ResBlock` is told.
"""

# %% [markdown] lang="vi"
r"""
### Bài 2.8: UNet

Đi xuống còn một nửa kích thước rồi đi lên lại; trên đường lên, mỗi khối còn đọc thêm những gì khối cùng kích thước đã thấy
trên đường xuống (`torch.cat(..., dim=1)`; đây là các đường nối tắt (skip connection)), nhờ đó các chi tiết nhỏ không phải chui qua phần giữa.

```
x -> conv_in -> down_fine ----------------------------> cat -> up_fine -> out
                    |                                    ^
                  shrink                                grow
                    |                                    |
                    +-> down_coarse -------------> cat -> up_coarse
                             |                      ^
                             +-> attend -> middle --+        out: norm_out, silu, conv_out
```

`self.embed(time_embedding(t, self.channels))` là embedding cần đưa cho mọi `ResBlock`.
"""


# %% exercise="2.8"
class UNet(nn.Module):
    """A UNet of two sizes."""

    def __init__(self, channels=24):
        super().__init__()
        c, e = channels, 4 * channels
        self.channels = channels
        self.embed = nn.Sequential(nn.Linear(c, e), nn.SiLU(), nn.Linear(e, e), nn.SiLU())
        self.conv_in = nn.Conv2d(1, c, 3, padding=1)
        self.down_fine = ResBlock(c, c, e)
        self.shrink = nn.Conv2d(c, c, 3, stride=2, padding=1)
        self.down_coarse = ResBlock(c, 2 * c, e)
        self.attend = Attention(2 * c)
        self.middle = ResBlock(2 * c, 2 * c, e)
        self.up_coarse = ResBlock(4 * c, c, e)
        self.grow = nn.Upsample(scale_factor=2)
        self.up_fine = ResBlock(2 * c, c, e)
        self.norm_out = nn.GroupNorm(8, c)
        self.conv_out = nn.Conv2d(c, 1, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x, t):
        """x (B, 1, H, W), H and W even, t (B,) -> the noise that it sees in x, like x."""
        emb = self.embed(time_embedding(t, self.channels))
        fine = self.down_fine(self.conv_in(x), emb)
        coarse = self.down_coarse(self.shrink(fine), emb)
        h = self.middle(self.attend(coarse), emb)
        h = self.up_coarse(torch.cat([h, coarse], dim=1), emb)
        h = self.up_fine(torch.cat([self.grow(h), fine], dim=1), emb)
        return self.conv_out(F.silu(self.norm_out(h)))


check("2.8", UNet)

# %% [markdown] lang="en"
r"""
## 5. Train

**How long must I train?** Here until the bar is full: some minutes. In general: until the *samples* stop getting better.
The loss falls fast in the first hundred steps and then slowly, while the samples still get better: most of what is left is
noise that nobody could predict.

**Why is my loss not falling?** It starts at 1, because the network says 0 and the noise has variance 1. If it stays
there: does the optimiser hold *this* network's parameters; is the learning rate sane (1e-4 to 2e-3); are the pictures in
$[-1, 1]$; is the target the very noise that made $x_t$? A network that is told a wrong $t$ can **not** be seen here: it reads
the amount of noise off the picture, and its loss is a tenth higher, no more (we tried). Exercise 2.2 checks that.

**Loss fine, samples are noise?** Then sampling is not what training was: another table or `T`, `t` off by one, a picture
normalised twice, `train()` for `eval()` with dropout, or noise added at the last step. The checks above find most of these.
"""

# %% [markdown] lang="vi"
r"""
## 5. Huấn luyện

**Phải huấn luyện bao lâu?** Ở đây: đến khi thanh tiến trình đầy, mất vài phút. Nói chung: đến khi *mẫu sinh ra* không đẹp
thêm nữa. Loss giảm nhanh trong khoảng một trăm bước đầu rồi giảm rất chậm, trong khi mẫu vẫn còn đẹp lên: phần lớn loss còn
lại là nhiễu mà không ai dự đoán nổi.

**Vì sao loss không giảm?** Loss bắt đầu từ 1, vì mạng trả lời 0 còn nhiễu có phương sai 1. Nếu nó cứ ở đó: optimizer có đang
giữ tham số của *đúng* mạng này không; tốc độ học có hợp lý không (1e-4 đến 2e-3); ảnh đã nằm trong $[-1, 1]$ chưa; đích
dự đoán có đúng là nhiễu đã tạo ra $x_t$ không? Còn nếu mạng nhận sai $t$ thì nhìn loss **không** thấy được: mạng tự đoán lượng
nhiễu từ ảnh, loss chỉ cao hơn chừng một phần mười (chúng tôi đã thử). Bài 2.2 đã kiểm tra điều này.

**Loss đẹp mà mẫu vẫn toàn nhiễu?** Khi đó lấy mẫu không khớp với lúc huấn luyện: bảng hoặc `T` khác, `t` lệch một đơn vị, ảnh
bị chuẩn hoá hai lần, quên chuyển `train()` sang `eval()` khi có dropout, hoặc vẫn thêm nhiễu ở bước cuối. Các bước kiểm tra
ở trên phát hiện được hầu hết những lỗi này.
"""

# %%
TRAINING = 1500
BATCH = 32
network = UNet().to(device)
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
losses = []
for step in tqdm(range(TRAINING), mininterval=2):
    optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, 2 * (1 - step / TRAINING))
    x_0 = pictures[torch.randint(len(pictures), (BATCH,), generator=generator)].to(device)
    t = torch.randint(1, T + 1, (BATCH,), generator=generator).to(device)
    eps = torch.randn(x_0.shape, generator=generator).to(device)
    loss = epsilon_loss(network, x_0, t, eps, table)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

smooth = torch.tensor(losses).unfold(0, 50, 10).mean(1)
plt.figure(figsize=(6, 3))
plt.plot(torch.arange(len(smooth)) * 10 + 50, smooth)
plt.gca().set(xlabel="step", ylabel=r"$L_\mathrm{simple}$", yscale="log", title="mean of 50 steps")
plt.show()

# %% [markdown] lang="en"
r"""
## 6. Out of noise

The same network, the same $x_T$: DDPM's 400 steps, then DDIM's 20. And on the way there, what the network takes for
$\hat x_0$ at each time: speckles, then something like an average of digits, then one of them.
"""

# %% [markdown] lang="vi"
r"""
## 6. Từ nhiễu thành chữ số

Cùng một mạng, cùng một $x_T$: 400 bước của DDPM, rồi 20 bước của DDIM. Trên đường đi, ta xem $\hat x_0$ mà mạng dự đoán tại
từng thời điểm: lúc đầu lốm đốm, rồi gần như trung bình của các chữ số, sau cùng thành một chữ số cụ thể.
"""


# %%
@torch.no_grad()
def walked(x, times, step):
    """x at the end, and what the network took for x_0 on the way; times fall from T to 0."""
    guesses = []
    for t, s in zip(tqdm(times[:-1], mininterval=2), times[1:], strict=True):
        eps_hat = network(x, torch.full((len(x),), t, device=device))
        guesses.append((x - math.sqrt(1 - table[t]) * eps_hat) / math.sqrt(table[t]))
        x = step(x, eps_hat, t, s, torch.randn(x.shape, generator=generator).to(device))
    return x, guesses


x_T = torch.randn(32, 1, 16, 16, generator=generator).to(device)
every, few = list(range(T, -1, -1)), torch.linspace(T, 0, 21).long().tolist()
drawn, _ = walked(x_T, every, lambda x, eps_hat, t, s, z: ancestral_step(x, eps_hat, t, table, z))
show(drawn, "DDPM, 400 steps")
drawn, guesses = walked(x_T, few, lambda x, eps_hat, t, s, z: ddim_step(x, eps_hat, t, s, table, 0.0, z))
show(drawn, "DDIM, 20 steps")
show(torch.cat([guess[:1] for guess in guesses[::2]] + [drawn[:1]]), r"$\hat x_0$ on the way", columns=11)

# %% [markdown] lang="en"
r"""
**Why the speckles?** $\hat x_0$ divides by $\sqrt{\bar\alpha_t}$, which is .006 at $t = T$, so that the smallest error of the network
is blown up. DDIM's long first steps walk towards it, and some of its digits keep a trace. Programs clip $\hat x_0$ to $[-1, 1]$
at every step, as lab 3 does.

## What you have built

DDPM and DDIM, whole. Compare with the library: its `solvers.Ancestral` and `solvers.DDIM` are your two steps,
`losses.DenoisingLoss` your loss, `networks.unet.UNet` your network with more sizes.

*To go on:* leave attention out (`self.attend = nn.Identity()`) and compare losses; take `cosine(T).alpha_bar` for the table;
walk with `eta = 1` in 20 steps and see why DDIM prefers 0; with a GPU, train faces:
`uv run train.py mask=everything objective=epsilon schedule=linear`. **Lab 3** fills holes in faces.
"""

# %% [markdown] lang="vi"
r"""
**Vì sao lốm đốm?** $\hat x_0$ phải chia cho $\sqrt{\bar\alpha_t}$, tại $t = T$ chỉ bằng 0.006, nên một sai số rất nhỏ của mạng cũng bị
phóng to. Những bước đầu rất dài của DDIM đi về phía đó, và vài chữ số còn giữ lại dấu vết. Các chương trình thường cắt (clip)
$\hat x_0$ về $[-1, 1]$ ở mỗi bước, như lab 3 sẽ làm.

## Bạn đã làm được gì

Trọn vẹn DDPM và DDIM. Hãy so với thư viện: `solvers.Ancestral` và `solvers.DDIM` là hai bước lùi của bạn,
`losses.DenoisingLoss` là hàm mất mát của bạn, `networks.unet.UNet` là mạng của bạn với nhiều kích thước hơn.

*Đi tiếp:* bỏ attention (`self.attend = nn.Identity()`) rồi so sánh loss; thay bảng bằng `cosine(T).alpha_bar`; đi 20 bước với
`eta = 1` để thấy vì sao DDIM chọn 0; nếu có GPU, hãy huấn luyện trên khuôn mặt:
`uv run train.py mask=everything objective=epsilon schedule=linear`. **Lab 3** khôi phục những khuôn mặt bị khuyết (inpainting).
"""
