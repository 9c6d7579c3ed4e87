"""Makers and assistants that models claim to be, or to be made by, though they are not."""

import re
from collections.abc import Collection
from typing import NamedTuple


class Vendor(NamedTuple):
    """A maker in all its spellings, and the assistants it is known for."""

    makers: tuple[str, ...]
    assistants: tuple[str, ...]


VENDORS = (
    Vendor(("OpenAI", "Open AI"), ("ChatGPT", "Chat GPT", "GPT-4o", "GPT-4", "GPT-3.5", "GPT-3",
                                   "GPT-2", "GPT-5", "GPT")),
    Vendor(("Anthropic",), ("Claude", "克劳德")),
    Vendor(("Google", "Google DeepMind", "Google AI", "DeepMind", "谷歌"),
           ("Gemini", "Google Assistant", "Bard", "Gemma", "LaMDA", "PaLM")),
    Vendor(("Meta", "Meta AI", "Facebook", "脸书"), ("Llama", "LLaMA")),
    Vendor(("Microsoft", "微软"), ("Copilot", "Bing Chat", "Bing", "Cortana", "Phi-3", "Phi-4",
                                   "小冰", "小娜")),
    Vendor(("Mistral AI",), ("Mistral", "Mixtral", "Le Chat")),
    Vendor(("DeepSeek", "DeepSeek AI", "深度求索"), ("DeepSeek",)),
    Vendor(("Apple", "苹果公司", "苹果"), ("Siri",)),
    Vendor(("Amazon", "亚马逊"), ("Alexa",)),
    Vendor(("xAI", "X.AI"), ("Grok",)),
    Vendor(("IBM", "IBM Watson"), ("Watson", "Granite")),
    Vendor(("NVIDIA", "英伟达"), ("Nemotron",)),
    Vendor(("Samsung", "三星"), ("Bixby",)),
    Vendor(("Hugging Face", "HuggingFace"), ("SmolLM", "SmolLM2", "HuggingChat", "Zephyr")),
    Vendor(("Cohere",), ("Command R",)),
    Vendor(("Inflection AI", "Inflection"), ("Pi",)),
    Vendor(("Perplexity AI",), ("Perplexity",)),
    Vendor(("Replika AI", "Luka"), ("Replika",)),
    Vendor(("Stability AI",), ("StableLM",)),
    Vendor(("Technology Innovation Institute", "TII"), ("Falcon",)),
    Vendor(("Alibaba Cloud", "Alibaba Group", "Alibaba", "阿里云", "阿里巴巴集团", "阿里巴巴",
            "通义实验室", "达摩院"),
           ("Qwen", "通义千问", "Tongyi Qianwen", "通义", "千问", "天猫精灵")),
    Vendor(("Baidu", "百度"), ("ERNIE Bot", "ERNIE", "文心一言", "文心", "小度")),
    Vendor(("Tencent", "腾讯"), ("Hunyuan", "混元", "腾讯元宝", "元宝")),
    Vendor(("ByteDance", "字节跳动"), ("Doubao", "豆包", "云雀")),
    Vendor(("Zhipu AI", "Zhipu", "智谱AI", "智谱"),
           ("ChatGLM", "GLM-4", "GLM", "智谱清言", "清言")),
    Vendor(("Moonshot AI", "月之暗面"), ("Kimi",)),
    Vendor(("MiniMax",), ("Hailuo", "海螺")),
    Vendor(("Huawei", "华为"), ("PanGu", "盘古", "小艺")),
    Vendor(("Xiaomi", "小米"), ("小爱同学", "小爱")),
    Vendor(("iFlytek", "科大讯飞", "讯飞"), ("SparkDesk", "讯飞星火", "星火")),
    Vendor(("01.AI", "零一万物"), ("Yi",)),
    Vendor(("Baichuan AI", "百川智能"), ("Baichuan", "百川")),
    Vendor(("Shanghai AI Laboratory", "上海人工智能实验室"), ("InternLM", "书生")),
    Vendor(("SenseTime", "商汤科技", "商汤"), ("SenseChat",)),
)  # fmt: skip


_USUAL = {maker: vendor.makers[0] for vendor in VENDORS for maker in vendor.makers}
_MAKER = re.compile(
    rf"(?<![A-Za-z])(?:{'|'.join(map(re.escape, sorted(_USUAL, key=len, reverse=True)))})"
    r"(?![A-Za-z])"
)


def first_maker(text: str) -> str | None:
    """Return the usual name of the known maker that a text names first; None: it names none."""
    found = _MAKER.search(text)
    return _USUAL[found[0]] if found else None


def family_of(names: Collection[str]) -> set[str]:
    """Return names with all that their vendors are known by: 阿里巴巴 belongs to Alibaba Cloud."""
    own = {name.casefold() for name in names}
    vendors = [{*vendor.makers, *vendor.assistants} for vendor in VENDORS]
    kin = [known for known in vendors if own & {name.casefold() for name in known}]
    return set(names).union(*kin)


def usual_maker(name: str) -> str:
    """Return the usual spelling of a maker's name: Alibaba Cloud of 阿里云."""
    same = (v.makers[0] for v in VENDORS if name.casefold() in map(str.casefold, v.makers))
    return next(same, name)
