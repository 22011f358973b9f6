"""The sentences that questions are made of, by form, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping

ENGLISH: Mapping[str, tuple[str, ...]] = {
    "finding": (
        "Which of the following findings is part of {disease}?",
        "In {disease}, which of these findings is to be expected?",
        "A patient is known to have {disease}. Which finding fits this diagnosis?",
    ),
    "diagnosis": (
        "{vignette} Which diagnosis accounts for all of these findings?",
        "{vignette} What is the most likely diagnosis?",
        "{vignette} Which of the following conditions explains this picture best?",
    ),
    "inheritance": (
        "{vignette} A disease-causing variant in {gene} is found. How is this disorder inherited?",
        "{vignette} Sequencing shows a causative variant in {gene}. Which mode of inheritance applies?",
    ),
    "gene": (
        "{vignette} A variant in which gene is the most likely cause?",
        "{vignette} Which gene is associated with the condition that this patient most likely has?",
        "{vignette} For which gene would testing most likely confirm the diagnosis?",
    ),
    "gene_finding": (
        "A patient carries a disease-causing variant in {gene}. Which finding belongs to the associated disorder?",
        "Which finding is part of a disorder associated with the gene {gene}?",
    ),
    "discriminate": (
        "You weigh {disease} against {other}. Which finding speaks for {disease}?",
        "Which finding helps to tell {disease} from {other}, as it is part of the former only?",
        "The differential diagnosis is {disease} or {other}. Which finding favours {disease}?",
    ),
    "drug": (
        "Which of these drugs is used to treat {disease}?",
        "A patient has {disease}. Which of these drugs has an established indication?",
        "Which of the following is a treatment of {disease}?",
    ),
    "drug_vignette": (
        "{vignette} Which drug is an established treatment of the most likely condition?",
        "{vignette} Which of these drugs treats the disease that this patient most likely has?",
    ),
    "non_indication": (
        "Which of these drugs has NO indication in {disease}?",
        "All of these drugs but one are indicated in {disease}. Which one is not?",
    ),
    "mechanism": (
        "Which pharmacologic class, action or effect is that of a drug used to treat {disease}?",
        "One of these classes, actions or effects is that of a drug given for {disease}. Which one?",
    ),
    "mechanism_vignette": (
        "{vignette} Which pharmacologic class, action or effect is that of a drug for the most likely condition?",
        "{vignette} Which class, action or effect is that of a drug used to treat this patient's disease?",
    ),
    "allelic": (
        "{vignette} The gene behind this patient's condition is also associated with which other disorder?",
        "{vignette} Which other disorder is associated with the most likely causative gene?",
    ),
    "allelic_finding": (
        "{vignette} The gene behind this condition is tied to a further disorder. Which finding is part of it?",
        "{vignette} Consider other disorders of the most likely causative gene. Which finding belongs to "
        "one of them?",
    ),
    "alternative_drug": (
        "{vignette} Which drug shares a pharmacologic class with a treatment of the most likely condition?",
        "{vignette} Think of the drugs for this patient's disease. Which of the following belongs to the class of one "
        "of them?",
    ),
    "next_test": (
        "{vignette} Which test should come next to confirm the most likely condition?",
        "{vignette} What is the most useful next investigation?",
    ),
    "contraindication": (
        "{vignette} Which drug is contraindicated in the most likely condition?",
        "{vignette} Which of these drugs has to be avoided in this patient's disease?",
    ),
}  # fmt: skip

CHINESE: Mapping[str, tuple[str, ...]] = {
    "finding": ("下列哪项是{disease}的表现？", "{disease}患者可出现下列哪项表现？"),
    "diagnosis": ("{vignette}最可能的诊断是什么？", "{vignette}下列哪种疾病最能解释上述全部表现？"),
    "inheritance": ("{vignette}检出{gene}致病变异。该病的遗传方式是什么？",),
    "gene": ("{vignette}最可能的致病基因是哪一个？",),
    "gene_finding": ("{gene}相关疾病的表现是下列哪项？",),
    "discriminate": ("鉴别{disease}与{other}时，下列哪项支持{disease}？",),
    "drug": ("下列哪种药物用于治疗{disease}？",),
    "drug_vignette": ("{vignette}下列哪种药物可治疗该患者最可能的疾病？",),
    "non_indication": ("下列哪种药物不适用于{disease}？",),
    "mechanism": ("治疗{disease}的药物属于下列哪一类？",),
    "mechanism_vignette": ("{vignette}治疗该病的药物属于下列哪一类？",),
    "allelic": ("{vignette}该病的致病基因还与下列哪种疾病相关？",),
    "allelic_finding": ("{vignette}该病的致病基因还与另一种疾病相关，下列哪项是其表现？",),
    "alternative_drug": ("{vignette}下列哪种药物与该病治疗药物同属一类？",),
    "next_test": ("{vignette}下一步应做哪项检查？",),
    "contraindication": ("{vignette}该患者最可能的疾病禁用下列哪种药物？",),
}
