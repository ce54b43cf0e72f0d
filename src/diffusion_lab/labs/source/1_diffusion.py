# %% [markdown] lang="en"
r"""
# Lab 1. Diffusion, 2015

*Sohl-Dickstein, Weiss, Maheswaranathan, Ganguli: Deep Unsupervised Learning using Nonequilibrium Thermodynamics.*

You will see where a GAN, a VAE and a flow go wrong, then build the first diffusion model piece by piece: destroy the
data in small steps, learn to undo each of them, and measure in bits how well you did.

**You need** Python, a little PyTorch, and what a Gaussian is. **Time** about 50 minutes, of which 3 to 8 are waiting. A
CPU is enough.

**How it works.** Each of the eight exercises is a function whose body is `...`. Fill it in and run the cell: `check`
looks at *properties* that a right solution has, and names the first one that yours lacks. In a terminal,
`python -m diffusion_lab.labs check 1.3` does the same for the notebook you have saved.

| here | in the papers |
|---|---|
| `x_0`, `x_t` | data, and data after $t$ steps of noise; $t = 1 \dots T$ |
| `betas` | $\beta_1 \dots \beta_T$; **`betas[0]` is $\beta_1$** |
| `alpha_bar` | $\bar\alpha_t = \prod_{s=1}^{t} (1 - \beta_s)$, with $\bar\alpha_0 = 1$ |
| `eps` | noise from $\mathcal N(0, I)$ |
"""

# %% [markdown] lang="vi"
r"""
# Lab 1. Mô hình khuếch tán, 2015

*Sohl-Dickstein, Weiss, Maheswaranathan, Ganguli: Deep Unsupervised Learning using Nonequilibrium Thermodynamics.*

Trong bài này, bạn sẽ thấy GAN, VAE và flow vấp ở đâu, rồi tự tay xây mô hình khuếch tán (diffusion model) đầu tiên,
từng phần một: phá huỷ dữ liệu qua nhiều bước nhỏ, học cách đảo ngược từng bước, và đo kết quả bằng đơn vị bit.

**Cần biết trước:** Python, một chút PyTorch, và phân phối Gauss là gì. **Thời gian:** khoảng 50 phút, trong đó chờ máy
chạy 3 đến 8 phút. Chỉ cần CPU.

**Cách làm.** Mỗi bài trong tám bài tập là một hàm có thân là `...`. Hãy viết thân hàm rồi chạy ô (cell) đó: `check` sẽ
kiểm tra những *tính chất* mà lời giải đúng phải có, và nêu tên tính chất đầu tiên mà hàm của bạn chưa thoả. Trong
terminal, lệnh `python -m diffusion_lab.labs check 1.3` làm đúng việc đó với notebook bạn đã lưu.

| trong bài | trong các bài báo |
|---|---|
| `x_0`, `x_t` | dữ liệu gốc, và dữ liệu sau $t$ bước thêm nhiễu; $t = 1 \dots T$ |
| `betas` | $\beta_1 \dots \beta_T$; **`betas[0]` là $\beta_1$** |
| `alpha_bar` | $\bar\alpha_t = \prod_{s=1}^{t} (1 - \beta_s)$, với $\bar\alpha_0 = 1$ |
| `eps` | nhiễu (noise) lấy từ $\mathcal N(0, I)$ |

Cạnh mỗi công thức có ghi chỗ của nó trong bài báo: *eq. 4* là công thức (equation) số 4.
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
from tqdm import tqdm

from diffusion_lab.labs import check

LANGUAGE = "en"
check = partial(check, language=LANGUAGE)
generator = torch.manual_seed(0)


def per_example(c, x):
    """Numbers ``(B,)``, one for each example, shaped so that they multiply x ``(B, ...)``."""
    return c.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def scatter(axis, points, title=""):
    """Draws points ``(N, 2)``."""
    axis.scatter(*points.detach().numpy().T, s=1)
    axis.set(title=title, xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")


# %% [markdown] lang="en"
r"""
## 1. Why not a GAN, a VAE or a flow?

Real data come in pieces: faces with glasses and faces without, digits 1 and digits 7, and little in between. Eight small
Gaussians on a ring are the smallest picture of this. We train four models on them with the project's own code
(`diffusion_lab.lessons.rivals`), each as small as when it was published, and count.

### Exercise 1.1: count the modes

A mode is **there** if, of all draws, it gets at least a quarter of its fair share ($N / 8$ of $N$ draws); a draw belongs
to its nearest centre, if that is within `reach`. A draw that no centre is within reach of lies **between** the modes.
"""

# %% [markdown] lang="vi"
r"""
## 1. Vì sao không dùng GAN, VAE hay flow?

Dữ liệu thật thường nằm thành từng cụm: mặt có kính và mặt không kính, chữ số 1 và chữ số 7, còn ở giữa hầu như không có
gì. Tám phân phối Gauss nhỏ xếp trên một vòng tròn là ví dụ nhỏ nhất cho điều đó. Ta huấn luyện bốn mô hình trên tám cụm
này bằng chính mã nguồn của dự án (`diffusion_lab.lessons.rivals`), mỗi mô hình nhỏ gọn như lúc mới được công bố, rồi đếm.

### Bài 1.1: đếm số mode

Một mode (một đỉnh của phân phối, ở đây là một cụm) được xem là **có mặt** nếu số mẫu rơi vào nó ít nhất bằng một phần tư
số mẫu lẽ ra nó được nhận khi chia đều ($N / 8$ trong $N$ mẫu). Mỗi mẫu thuộc về tâm gần nó nhất, miễn là tâm đó cách nó
không quá `reach`. Mẫu nào cách mọi tâm xa hơn `reach` thì nằm **giữa** các mode.
"""


# %% exercise="1.1"
def count_modes(draws, centres, reach):
    """How many modes are there, and the share of the draws that lies between them.

    draws (N, 2), centres (M, 2) -> (a number in 0..M, a share in [0, 1])
    """
    distance, nearest = torch.cdist(draws, centres).min(dim=1)
    near = nearest[distance <= reach].bincount(minlength=len(centres))
    there = near >= len(draws) / len(centres) / 4
    return int(there.sum()), float((distance > reach).float().mean())


check("1.1", count_modes)

# %%
from diffusion_lab.lessons import rivals
from diffusion_lab.lessons.data import ring, rings

STEPS = 3000
points = rings(10_000, generator)
centres = ring(rivals.MODES, rivals.NOISE)
figure, axes = plt.subplots(1, 5, figsize=(15, 3.4))
scatter(axes[0], points[:1000], "data")
for axis, (name, make) in zip(axes[1:], tqdm(rivals.MODELS.items()), strict=True):
    model = make()
    rivals.fit(model, points, STEPS, generator)
    with torch.no_grad():
        draws = model.draw(1000, generator)
    modes, between = count_modes(draws, centres, rivals.REACH)
    scatter(axis, draws, f"{name}: {modes} / 8, {between:.0%} between")
plt.show()

# %% [markdown] lang="en"
r"""
Look at the threads between the clusters. The GAN's generator and the flow are *continuous* maps of one connected cloud
$z \sim \mathcal N(0, I)$: they can stretch it thin, but not tear it. Nothing makes a GAN visit every mode either: a
generator that fools the critic with six of them is done. The VAE's codes of different modes must overlap to look like
$\mathcal N(0, I)$, and what is decoded from the overlap lies in between. The diffusion model draws fresh noise at every
one of its 40 steps, so its draws are no continuous function of one code: it may leave the gap empty.

(Few training steps, one seed: the longer run is in `docs/why_diffusion.md`. Set `STEPS = 6000` if you have the time.)

## 2. The forward process

$$q(x_t \mid x_{t-1}) = \mathcal N\big(x_t;\ \sqrt{1 - \beta_t}\, x_{t-1},\ \beta_t I\big) \qquad \text{(2015, table App.1; DDPM eq. 2)}$$

### Exercise 1.2: one step

Draw from it, given the noise `eps` from $\mathcal N(0, I)$. Mind the difference between a *variance* and the *factor*
that makes it.
"""

# %% [markdown] lang="vi"
r"""
Hãy nhìn những sợi nối giữa các cụm. Bộ sinh (generator) của GAN và flow đều là ánh xạ *liên tục* từ một đám mây liền
khối $z \sim \mathcal N(0, I)$: chúng có thể kéo đám mây đó thật mỏng nhưng không xé rời nó ra được. Cũng không có gì buộc
GAN phải ghé qua mọi mode: chỉ cần đánh lừa được bộ phân biệt (discriminator) với sáu mode là xong việc. Với VAE, mã (code)
của các mode khác nhau phải chồng lên nhau để trông giống $\mathcal N(0, I)$, và những gì được giải mã từ phần chồng lấn
sẽ nằm ở giữa. Mô hình khuếch tán lấy nhiễu mới ở mỗi bước trong 40 bước, nên mẫu của nó không phải hàm liên tục của một
mã duy nhất: nó có thể để trống khoảng giữa.

(Ở đây chỉ huấn luyện ít bước, một hạt giống ngẫu nhiên (seed); kết quả đầy đủ nằm trong `docs/why_diffusion.md`. Nếu có
thời gian, hãy đặt `STEPS = 6000`.)

## 2. Quá trình thuận (forward process)

$$q(x_t \mid x_{t-1}) = \mathcal N\big(x_t;\ \sqrt{1 - \beta_t}\, x_{t-1},\ \beta_t I\big) \qquad \text{(2015, table App.1; DDPM eq. 2)}$$

### Bài 1.2: một bước

Lấy mẫu từ phân phối trên, với nhiễu `eps` cho trước lấy từ $\mathcal N(0, I)$. Chú ý phân biệt *phương sai (variance)* với
*hệ số nhân* tạo ra nó.
"""


# %% exercise="1.2"
def forward_step(x, beta, eps):
    """x_t, one step after x = x_(t-1). beta is a number in [0, 1]; eps is like x."""
    return math.sqrt(1 - beta) * x + math.sqrt(beta) * eps


check("1.2", forward_step)

# %% [markdown] lang="en"
r"""
### Exercise 1.3: all steps at once

A Gaussian of a Gaussian is a Gaussian, so that nobody has to walk there step by step:

$$q(x_t \mid x_0) = \mathcal N\big(x_t;\ \sqrt{\bar\alpha_t}\, x_0,\ (1 - \bar\alpha_t) I\big), \qquad \bar\alpha_t = \prod_{s=1}^t (1 - \beta_s) \qquad \text{(DDPM eq. 4)}$$

Every example of the batch has its own $t$. `per_example`, from the top of the notebook, shapes numbers `(B,)` for you.
"""

# %% [markdown] lang="vi"
r"""
### Bài 1.3: đi thẳng tới bước $t$

Gauss nối tiếp Gauss vẫn là Gauss, nên không cần đi từng bước một:

$$q(x_t \mid x_0) = \mathcal N\big(x_t;\ \sqrt{\bar\alpha_t}\, x_0,\ (1 - \bar\alpha_t) I\big), \qquad \bar\alpha_t = \prod_{s=1}^t (1 - \beta_s) \qquad \text{(DDPM eq. 4)}$$

Mỗi mẫu trong batch có một $t$ riêng. Hàm `per_example` ở đầu notebook giúp bạn đưa các số `(B,)` về đúng kích thước để nhân.
"""


# %% exercise="1.3"
def q_sample(x_0, t, betas, eps):
    """x_t ~ q(x_t | x_0), made of the noise eps.

    x_0 (B, ...), t (B,) integers in 1..T, betas (T,), eps like x_0 -> like x_0
    """
    alpha_bar = (1 - betas).cumprod(0)[t - 1]
    return per_example(alpha_bar.sqrt(), x_0) * x_0 + per_example((1 - alpha_bar).sqrt(), x_0) * eps


check("1.3", q_sample)

# %%
from diffusion_lab.lessons.data import swiss_roll
from diffusion_lab.lessons.gaussian import LearnedBetas

T = 40
betas = LearnedBetas(T, first_beta=5e-4).fixed.betas  # log-SNR falls on a line; nothing is left at T
roll = swiss_roll(20_000, generator)
times = [0, 5, 10, 20, 40]
figure, axes = plt.subplots(1, 5, figsize=(15, 3.4))
for axis, t in zip(axes, times, strict=True):
    x = roll[:2000]
    x_t = x if t == 0 else q_sample(x, torch.full((len(x),), t), betas, torch.randn(x.shape, generator=generator))
    scatter(axis, x_t, f"t = {t}")
plt.show()

# %% [markdown] lang="en"
r"""
## 3. The way back: the reverse process

### Exercise 1.4: the way back if $x_0$ is known

Backwards the process is no Gaussian, unless one knows where it began. Then it is one, by Bayes' rule:

$$q(x_{t-1} \mid x_t, x_0) = \mathcal N(\tilde\mu_t, \tilde\beta_t I), \qquad
\tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t \qquad \text{(DDPM eq. 6, 7)}$$
$$\tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1 - \bar\alpha_t} x_0 + \frac{\sqrt{1 - \beta_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t$$

Think of $t = 1$ before you index: $\bar\alpha_0$ is 1, and Python is happy to read `table[-1]`.
"""

# %% [markdown] lang="vi"
r"""
## 3. Đường về: quá trình ngược (reverse process)

### Bài 1.4: bước lùi khi đã biết $x_0$

Đi ngược lại thì quá trình không còn là Gauss, trừ khi ta biết nó bắt đầu từ đâu. Khi đó, theo định lý Bayes, nó lại là
Gauss; đây là phân phối hậu nghiệm (posterior):

$$q(x_{t-1} \mid x_t, x_0) = \mathcal N(\tilde\mu_t, \tilde\beta_t I), \qquad
\tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t \qquad \text{(DDPM eq. 6, 7)}$$
$$\tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1 - \bar\alpha_t} x_0 + \frac{\sqrt{1 - \beta_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t$$

Hãy nghĩ đến $t = 1$ trước khi lấy chỉ số: $\bar\alpha_0$ bằng 1, còn Python thì vẫn vui vẻ đọc `table[-1]`.
"""


# %% exercise="1.4"
def posterior(x_t, x_0, t, betas):
    """Mean and variance of q(x_(t-1) | x_t, x_0).

    x_t, x_0 (B, ...), t (B,) integers in 1..T, betas (T,) -> mean like x_t, variance (B,)
    """
    table = torch.cat([torch.ones(1, dtype=betas.dtype), (1 - betas).cumprod(0)])
    now, before, beta = table[t], table[t - 1], betas[t - 1]
    of_x_0 = before.sqrt() * beta / (1 - now)
    of_x_t = (1 - beta).sqrt() * (1 - before) / (1 - now)
    mean = per_example(of_x_0, x_t) * x_0 + per_example(of_x_t, x_t) * x_t
    return mean, beta * (1 - before) / (1 - now)


check("1.4", posterior)

# %% [markdown] lang="en"
r"""
### Exercise 1.5: the model's step

The model does not know $x_0$. Its network looks at $x_t$ and $t$ and says two things: a guess $\hat x_0$, and how
uncertain the step is. The reverse mean is `posterior(x_t, x_0_hat, ...)`: exercise 1.4 with the guess in the place of
the truth. The reverse covariance is diagonal and lies between the two extremes: $\tilde\beta_t$ if $x_0$ were known
exactly, $\beta_t$ if nothing were known of it. A variance must be positive, so one mixes logarithms:

$$\Sigma_\theta = \exp\big(v \log \beta_t + (1 - v) \log \tilde\beta_t\big) \qquad \text{(Nichol \& Dhariwal 2021, eq. 15)}$$

The last step ends at the data, where $\tilde\beta_1 = 0$: the small number `least` takes its place.
"""

# %% [markdown] lang="vi"
r"""
### Bài 1.5: bước lùi của mô hình

Mô hình không biết $x_0$. Mạng nơ-ron nhìn $x_t$ và $t$ rồi nói hai điều: một dự đoán $\hat x_0$, và bước lùi này chắc
chắn đến đâu. Trung bình của bước lùi là `posterior(x_t, x_0_hat, ...)`, tức bài 1.4 với dự đoán thay cho $x_0$ thật. Hiệp
phương sai (covariance) là ma trận chéo, nằm giữa hai thái cực: $\tilde\beta_t$ nếu biết chính xác $x_0$, và $\beta_t$ nếu
không biết gì về $x_0$. Vì phương sai phải dương nên ta không trộn phương sai mà trộn log của chúng:

$$\Sigma_\theta = \exp\big(v \log \beta_t + (1 - v) \log \tilde\beta_t\big) \qquad \text{(Nichol \& Dhariwal 2021, eq. 15)}$$

Bước cuối kết thúc ở dữ liệu, nơi $\tilde\beta_1 = 0$: khi đó dùng số nhỏ `least` thay thế.
"""


# %% exercise="1.5"
def reverse_log_variance(mix, t, betas, least):
    """log Sigma of the model's step; mix is v, 0 for beta-tilde to 1 for beta.

    mix (B, D), t (B,) integers in 1..T, betas (T,), least a number -> (B, D)
    """
    table = torch.cat([torch.ones(1, dtype=betas.dtype), (1 - betas).cumprod(0)])
    beta = betas[t - 1]
    beta_tilde = beta * (1 - table[t - 1]) / (1 - table[t])
    log_large, log_small = per_example(beta.log(), mix), per_example(beta_tilde.clamp(min=least).log(), mix)
    return mix * log_large + (1 - mix) * log_small


check("1.5", reverse_log_variance)

# %% [markdown] lang="en"
r"""
## 4. The bound, in bits

How good is a generator? A diffusion model can be asked for a number: how many bits does it need to write down an example
it has never seen? It cannot be computed exactly, but bounded from above, by a divergence for the
prior ($L_T$), one for each step back ($L_{t-1}$), and the price of the step to the data ($L_0$;
2015 eq. 14, DDPM eq. 5):

$$-\log_2 p(x_0) \le \underbrace{\mathrm{KL}\big(q(x_T | x_0)\,\|\,\mathcal N(0, I)\big)}_{L_T}
+ \sum_{t=2}^{T} \underbrace{\mathrm{KL}\big(q(x_{t-1} | x_t, x_0)\,\|\,p_\theta(x_{t-1} | x_t)\big)}_{L_{t-1}}
\underbrace{-\log_2 p_\theta(x_0 | x_1)}_{L_0}$$

### Exercise 1.6: a divergence between Gaussians

For one dimension, in nats:
$\mathrm{KL}(q \| p) = \tfrac12 \big( \tfrac{\sigma_q^2 + (\mu_q - \mu_p)^2}{\sigma_p^2} - 1 - \ln \tfrac{\sigma_q^2}{\sigma_p^2} \big)$.
Give **bits**, **summed** over the dimensions of an example.
"""

# %% [markdown] lang="vi"
r"""
## 4. Cận trên, tính bằng bit

Làm sao biết một mô hình sinh tốt đến đâu? Với mô hình khuếch tán, ta có thể hỏi một con số: cần bao nhiêu bit để ghi lại
một mẫu mà mô hình chưa từng thấy? Không tính được chính xác con số này, nhưng chặn trên được, bằng tổng của: phần tiên nghiệm
(prior, $L_T$), phần của mỗi bước lùi ($L_{t-1}$), và phần của bước cuối về dữ liệu ($L_0$; 2015 eq. 14,
DDPM eq. 5):

$$-\log_2 p(x_0) \le \underbrace{\mathrm{KL}\big(q(x_T | x_0)\,\|\,\mathcal N(0, I)\big)}_{L_T}
+ \sum_{t=2}^{T} \underbrace{\mathrm{KL}\big(q(x_{t-1} | x_t, x_0)\,\|\,p_\theta(x_{t-1} | x_t)\big)}_{L_{t-1}}
\underbrace{-\log_2 p_\theta(x_0 | x_1)}_{L_0}$$

### Bài 1.6: độ phân kỳ KL giữa hai phân phối Gauss

Với một chiều, tính bằng nat:
$\mathrm{KL}(q \| p) = \tfrac12 \big( \tfrac{\sigma_q^2 + (\mu_q - \mu_p)^2}{\sigma_p^2} - 1 - \ln \tfrac{\sigma_q^2}{\sigma_p^2} \big)$.
Hãy trả về số **bit**, lấy **tổng** theo các chiều của mỗi mẫu.
"""


# %% exercise="1.6"
def kl_bits(mean_q, log_variance_q, mean_p, log_variance_p):
    """KL(q || p) between diagonal Gaussians, in bits an example: all (B, D) -> (B,)."""
    log_ratio = log_variance_q - log_variance_p
    apart = (mean_q - mean_p).square() * torch.exp(-log_variance_p)
    nats = 0.5 * (log_ratio.exp() + apart - 1 - log_ratio)
    return nats.sum(1) / math.log(2)


check("1.6", kl_bits)

# %% [markdown] lang="en"
r"""
This is one term of the sum, made of your functions; read it. At $t = 1$ the term is $-\log_2 p_\theta(x_0 | x_1)$ of a
Gaussian with variance `LEAST`.
"""

# %% [markdown] lang="vi"
r"""
Dưới đây là một số hạng của tổng, ghép từ các hàm bạn vừa viết; hãy đọc kỹ. Tại $t = 1$, số hạng này là
$-\log_2 p_\theta(x_0 | x_1)$ của một phân phối Gauss có phương sai `LEAST`.
"""

# %%
LEAST = 5e-4  # beta_1: with less, the last step claims to know x_0 better than x_1 tells, and pays for it in bits


def step_bits(x_0, x_t, t, x_0_hat, mix, betas, least):
    """One term of the bound for each example, in bits: (B,)."""
    mean_q, variance_q = posterior(x_t, x_0, t, betas)
    mean_p, _ = posterior(x_t, x_0_hat, t, betas)
    log_variance_p = reverse_log_variance(mix, t, betas, least)
    log_variance_q = per_example(variance_q.clamp(min=1e-30).log(), x_0).expand_as(x_0)
    kl = kl_bits(mean_q, log_variance_q, mean_p, log_variance_p)
    nats = 0.5 * (math.log(2 * math.pi * least) + (x_0 - mean_p).square() / least)
    return torch.where(t == 1, nats.sum(1) / math.log(2), kl)


# %% [markdown] lang="en"
r"""
### Exercise 1.7: the whole bound

Walk over all $t$, draw $x_t$ with the noise `eps[t - 1]`, ask the model, and add up. Do not forget the prior, $L_T$: $q(x_T |
x_0)$ is the Gaussian of exercise 1.3, and `kl_bits` compares it with $\mathcal N(0, I)$.
"""

# %% [markdown] lang="vi"
r"""
### Bài 1.7: toàn bộ cận trên

Duyệt qua mọi $t$, lấy $x_t$ với nhiễu `eps[t - 1]`, hỏi mô hình rồi cộng lại. Đừng quên phần tiên nghiệm (prior) $L_T$:
$q(x_T | x_0)$ chính là phân phối Gauss ở bài 1.3, và `kl_bits` so nó với $\mathcal N(0, I)$.
"""


# %% exercise="1.7"
def bound_bits(x_0, predict, betas, eps, least):
    """An upper bound on -log2 p(x_0), in bits an example, by `step_bits` and `kl_bits`.

    x_0 (B, D), predict(x_t, t) -> (x_0_hat, mix), both (B, D), eps (T, B, D) -> (B,)
    """
    left = (1 - betas).prod().to(x_0.dtype)
    zero = torch.zeros_like(x_0)
    total = kl_bits(left.sqrt() * x_0, zero + torch.log1p(-left), zero, zero)
    for step in range(1, len(betas) + 1):
        t = torch.full((len(x_0),), step)
        x_t = q_sample(x_0, t, betas, eps[step - 1])
        x_0_hat, mix = predict(x_t, t)
        total = total + step_bits(x_0, x_t, t, x_0_hat, mix, betas, least)
    return total


check("1.7", bound_bits)

# %% [markdown] lang="en"
r"""
## 5. Train it, and look

Training minimises the very bound: one random $t$ for each example, times $T$. The network is the paper's: radial basis
functions over the plane, and a readout that glides over $t$ (appendix D). It says $v = \sqrt{\bar\alpha_t}\,\epsilon -
\sqrt{1 - \bar\alpha_t}\,x_0$, of which $\hat x_0$ follows, and the mix.

**Why does my loss jump?** Each step sees other $t$ and other noise, and terms at different $t$ differ by orders of
magnitude. Look at a running mean, not at single steps. **When is it enough?** When the mean has been flat for a third of
the run.
"""

# %% [markdown] lang="vi"
r"""
## 5. Huấn luyện và quan sát

Hàm mất mát (loss) chính là cận trên này: với mỗi mẫu, ta lấy ngẫu nhiên một $t$ rồi nhân số hạng tương ứng với $T$. Mạng
giống trong bài báo: các hàm cơ sở bán kính (radial basis function) trên mặt phẳng, và một lớp đầu ra (readout) thay đổi dần
theo $t$ (phụ lục D). Mạng cho ra $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1 - \bar\alpha_t}\,x_0$ (từ đó suy ra
$\hat x_0$) và hệ số trộn (mix).

**Vì sao loss nhảy lên nhảy xuống?** Mỗi bước huấn luyện gặp các $t$ và nhiễu khác nhau, mà các số hạng ở những $t$ khác
nhau chênh nhau hàng chục, hàng trăm lần. Hãy nhìn trung bình trượt, đừng nhìn từng bước. **Huấn luyện bao lâu thì đủ?** Khi
đường trung bình đã nằm ngang suốt một phần ba quá trình huấn luyện.
"""

# %%
from diffusion_lab.lessons.networks import RadialBasis

network = RadialBasis(2, 4, hidden=100, steps=T, bumps=41)
alpha_bar = (1 - betas).cumprod(0)


def predict(x_t, t):
    """The model: x_0_hat and mix, both (B, 2)."""
    v, mix = network(x_t.float(), None, t.float()).chunk(2, dim=1)
    signal, sigma = per_example(alpha_bar[t - 1].sqrt(), v), per_example((1 - alpha_bar[t - 1]).sqrt(), v)
    return signal * x_t - sigma * v, (mix + 1) / 2


TRAINING = 3000
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
losses = []
for step in tqdm(range(TRAINING), mininterval=2):
    optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, 2 * (1 - step / TRAINING))
    x_0 = roll[torch.randint(len(roll), (256,), generator=generator)]
    t = torch.randint(1, T + 1, (256,), generator=generator)
    x_t = q_sample(x_0, t, betas, torch.randn(x_0.shape, generator=generator))
    loss = T * step_bits(x_0, x_t, t, *predict(x_t, t), betas, LEAST).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

smooth = torch.tensor(losses).unfold(0, 100, 20).mean(1)
plt.figure(figsize=(6, 3))
plt.plot(torch.arange(len(smooth)) * 20 + 100, smooth)
plt.gca().set(xlabel="step", ylabel="bits", ylim=(0, 8), title="training loss, mean of 100 steps")
plt.show()

# %% [markdown] lang="en"
r"""
**Your trajectory picture.** From pure noise, one step of the model after the other; below, the ways of twenty points.
"""

# %% [markdown] lang="vi"
r"""
**Hình quỹ đạo (trajectory) của bạn.** Bắt đầu từ nhiễu thuần tuý, mô hình lùi từng bước một; hình dưới là đường đi của hai mươi điểm.
"""

# %%
x = torch.randn(2000, 2, generator=generator)
path = [x]
with torch.no_grad():
    for step in range(T, 0, -1):
        t = torch.full((len(x),), step)
        x_0_hat, mix = predict(x, t)
        mean, _ = posterior(x, x_0_hat, t, betas)
        deviation = (0.5 * reverse_log_variance(mix, t, betas, LEAST)).exp()
        x = mean + deviation * torch.randn(x.shape, generator=generator)
        path.append(x)

figure, axes = plt.subplots(1, 5, figsize=(15, 3.4))
for axis, t in zip(axes, reversed(times), strict=True):
    scatter(axis, path[T - t], f"t = {t}")
plt.show()

ways = torch.stack(path)[:, :20]  # (T + 1, 20, 2)
plt.figure(figsize=(5, 5))
plt.plot(ways[..., 0], ways[..., 1], linewidth=0.7)
plt.scatter(*ways[-1].numpy().T, color="black", s=12, zorder=3)
plt.gca().set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", title="$x_T \\to x_0$")
plt.show()

# %% [markdown] lang="en"
r"""
**A bound beside the truth.** The roll is drawn by a formula, so that its true density is known. Your bound must be above
it, here by a fraction of a bit: the price of your network, of 40 steps, and of these betas. (What if `LEAST` is 1e-4?)
"""

# %% [markdown] lang="vi"
r"""
**Cận trên bên cạnh giá trị thật.** Dữ liệu swiss roll được sinh ra từ một công thức, nên ta biết mật độ xác suất thật của nó.
Cận trên của bạn phải lớn hơn giá trị đó, ở đây chỉ hơn chưa tới một bit: đó là cái giá của mạng nơ-ron, của 40 bước, và
của bộ betas này. (Nếu đặt `LEAST` là 1e-4 thì sao?)
"""

# %%
from diffusion_lab.lessons.data import swiss_roll_bits

test = swiss_roll(2000, generator)
with torch.no_grad():
    eps = torch.randn(T, *test.shape, generator=generator)
    bound = bound_bits(test, predict, betas, eps, LEAST)
error = float(bound.std()) / math.sqrt(len(bound))
print(f"bound {float(bound.mean()):.2f} +- {error:.2f} bits, truth {float(swiss_roll_bits(test).mean()):.2f} bits")

# %% [markdown] lang="en"
r"""
## 6. Bits instead of points

Nothing above needs a Gaussian. The paper also diffuses **binary sequences**: a bit (here a spin, $-1$ or $+1$) is kept
with probability $\gamma_t$ and replaced by a *fair coin* otherwise, so that nothing is left of it at $\gamma_T = 0$.

### Exercise 1.8: flip

`u` is uniform on $[0, 1)$, one number for each bit: use it to decide. What is the probability that a bit keeps its value?
A fair coin may fall on the old value, too.
"""

# %% [markdown] lang="vi"
r"""
## 6. Bit thay cho điểm

Những điều ở trên không đòi hỏi phân phối phải là Gauss. Bài báo còn khuếch tán cả **chuỗi nhị phân (binary sequence)**: mỗi
bit (ở đây là spin, $-1$ hoặc $+1$) được giữ nguyên với xác suất $\gamma_t$, nếu không thì được thay bằng kết quả tung một
*đồng xu cân đối*, nên khi $\gamma_T = 0$ thì không còn lại gì của nó.

### Bài 1.8: lật bit

`u` lấy đều trên $[0, 1)$, mỗi bit một số: hãy dùng nó để quyết định. Xác suất để một bit giữ nguyên giá trị là bao nhiêu?
Đồng xu cũng có thể rơi đúng vào giá trị cũ.
"""


# %% exercise="1.8"
def flip(x_0, gamma, u):
    """x_t ~ q(x_t | x_0) for spins: kept with probability gamma, else a fair coin.

    x_0 (B, D) of -1 and 1, gamma (B,) in [0, 1], u (B, D) uniform on [0, 1) -> (B, D) of -1 and 1
    """
    keeps = u < (1 + per_example(gamma, x_0)) / 2
    return torch.where(keeps, x_0, -x_0)


check("1.8", flip)

# %% [markdown] lang="en"
r"""
The data: a "heartbeat" of twenty bits, every fifth of them up, in five phases. With only five sequences we need no
network: Bayes' rule says which sequence $x_t$ may come from, and the mean of $x_0$ is the best guess there is. The step
back is the library's (`lessons.binomial`). The truth is $\log_2 5 = 2.32$ bits a sequence.
"""

# %% [markdown] lang="vi"
r"""
Dữ liệu là một "nhịp tim" dài hai mươi bit, cứ năm bit thì có một bit bằng $+1$, với năm pha khác nhau. Chỉ có năm chuỗi nên ta
không cần mạng nơ-ron: định lý Bayes cho biết $x_t$ có thể đến từ chuỗi nào, và trung bình của $x_0$ là dự đoán tốt nhất có
thể. Bước lùi lấy từ thư viện (`lessons.binomial`). Giá trị thật là $\log_2 5 = 2.32$ bit cho mỗi chuỗi.
"""

# %%
from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.schedule import jsd
from diffusion_lab.lessons.binomial import Binomial, reverse_mean
from diffusion_lab.lessons.data import heartbeat, heartbeats
from diffusion_lab.lessons.dpm import bound as library_bound


def best_guess(x, level):
    """E[x_0 | x_t], over the five sequences: (B, 20)."""
    agree = level[:, None, None] * x.double()[:, None] * heartbeats().double()
    which = ((1 + agree) / 2).log().sum(2).softmax(1)
    return which @ heartbeats().double()


schedule = jsd(100)  # gamma_t = 1 - t / T
x = torch.where(torch.rand(60, 20, generator=generator) < 0.5, 1.0, -1.0)
back = {100: x}
for t in range(100, 0, -1):
    level, next_level = schedule.alpha_bar[t].expand(60), schedule.alpha_bar[t - 1].expand(60)
    mean = reverse_mean(x, best_guess(x, level), level, next_level)
    x = torch.where(torch.rand(60, 20, generator=generator) < (1 + mean) / 2, 1.0, -1.0)
    back[t - 1] = x

x_0 = heartbeat(60, generator)
figure, axes = plt.subplots(2, 5, figsize=(12, 8))
for column, t in enumerate([0, 25, 50, 75, 100]):
    forward = flip(x_0, schedule.alpha_bar[t].expand(60), torch.rand(60, 20, generator=generator))
    for axis, shown, name in ((axes[0, column], forward, "q"), (axes[1, column], back[t], "p")):
        axis.imshow(-shown.numpy(), cmap="gray", aspect="auto")
        axis.set(title=f"{name}, t = {t}", xticks=[], yticks=[])
plt.show()

right = (x[:, None] == heartbeats()).all(2).any(1).float().mean()
noise = ExampleNoise(torch.arange(60), (20,))
bits = library_bound(
    lambda x, level, condition: Prediction(best_guess(x, level), torch.zeros_like(x)), Binomial(), schedule, x_0, noise
)
print(f"heartbeats among the draws: {right:.0%}; bound {bits.total.mean():.2f} bits, truth {math.log2(5):.2f} bits")

# %% [markdown] lang="en"
r"""
## What you have built

A generator whose every step is easy, and a number in bits that says how good it is. In 2015 it took thousands of steps
and a loss of many terms. **Lab 2** is what made it famous: fix the covariance, predict the noise, drop the weights.

*To go on:* learn the betas too (`LearnedBetas`, its gradient flows through `q_sample`); halve $T$ and see what the bound
says; `uv run train.py experiment=dpm2015_swissroll` is the library's own version, `docs/dpm2015.md` its page.
"""

# %% [markdown] lang="vi"
r"""
## Bạn đã làm được gì

Một mô hình sinh mà mỗi bước đều dễ, cùng một con số tính bằng bit cho biết nó tốt đến đâu. Năm 2015, cách này cần hàng
nghìn bước và một hàm mất mát gồm nhiều số hạng. **Lab 2** là điều đã làm nó nổi tiếng: cố định hiệp phương sai, dự đoán
nhiễu, bỏ các trọng số.

*Đi tiếp:* học luôn cả betas (`LearnedBetas`, gradient truyền qua được `q_sample`); giảm $T$ còn một nửa và xem cận trên thay
đổi ra sao; `uv run train.py experiment=dpm2015_swissroll` là phiên bản của thư viện, trang hướng dẫn là `docs/dpm2015.md`.
"""
