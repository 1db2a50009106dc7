//! Countries of documents: ISO 3166-1 alpha-2 to alpha-3 (selectors.md `passport/1`).
//!
//! An own table and not a library's: an update of a library would change a published policy.

/// The 249 officially assigned codes, each alpha-2 followed by its alpha-3.
const ISO_3166_1: &str = "ADAND AEARE AFAFG AGATG AIAIA ALALB AMARM AOAGO AQATA ARARG ASASM ATAUT AUAUS AWABW AXALA \
    AZAZE BABIH BBBRB BDBGD BEBEL BFBFA BGBGR BHBHR BIBDI BJBEN BLBLM BMBMU BNBRN BOBOL BQBES \
    BRBRA BSBHS BTBTN BVBVT BWBWA BYBLR BZBLZ CACAN CCCCK CDCOD CFCAF CGCOG CHCHE CICIV CKCOK \
    CLCHL CMCMR CNCHN COCOL CRCRI CUCUB CVCPV CWCUW CXCXR CYCYP CZCZE DEDEU DJDJI DKDNK DMDMA \
    DODOM DZDZA ECECU EEEST EGEGY EHESH ERERI ESESP ETETH FIFIN FJFJI FKFLK FMFSM FOFRO FRFRA \
    GAGAB GBGBR GDGRD GEGEO GFGUF GGGGY GHGHA GIGIB GLGRL GMGMB GNGIN GPGLP GQGNQ GRGRC GSSGS \
    GTGTM GUGUM GWGNB GYGUY HKHKG HMHMD HNHND HRHRV HTHTI HUHUN IDIDN IEIRL ILISR IMIMN ININD \
    IOIOT IQIRQ IRIRN ISISL ITITA JEJEY JMJAM JOJOR JPJPN KEKEN KGKGZ KHKHM KIKIR KMCOM KNKNA \
    KPPRK KRKOR KWKWT KYCYM KZKAZ LALAO LBLBN LCLCA LILIE LKLKA LRLBR LSLSO LTLTU LULUX LVLVA \
    LYLBY MAMAR MCMCO MDMDA MEMNE MFMAF MGMDG MHMHL MKMKD MLMLI MMMMR MNMNG MOMAC MPMNP MQMTQ \
    MRMRT MSMSR MTMLT MUMUS MVMDV MWMWI MXMEX MYMYS MZMOZ NANAM NCNCL NENER NFNFK NGNGA NINIC \
    NLNLD NONOR NPNPL NRNRU NUNIU NZNZL OMOMN PAPAN PEPER PFPYF PGPNG PHPHL PKPAK PLPOL PMSPM \
    PNPCN PRPRI PSPSE PTPRT PWPLW PYPRY QAQAT REREU ROROU RSSRB RURUS RWRWA SASAU SBSLB SCSYC \
    SDSDN SESWE SGSGP SHSHN SISVN SJSJM SKSVK SLSLE SMSMR SNSEN SOSOM SRSUR SSSSD STSTP SVSLV \
    SXSXM SYSYR SZSWZ TCTCA TDTCD TFATF TGTGO THTHA TJTJK TKTKL TLTLS TMTKM TNTUN TOTON TRTUR \
    TTTTO TVTUV TWTWN TZTZA UAUKR UGUGA UMUMI USUSA UYURY UZUZB VAVAT VCVCT VEVEN VGVGB VIVIR \
    VNVNM VUVUT WFWLF WSWSM YEYEM YTMYT ZAZAF ZMZMB ZWZWE";

/// What selectors.md adds, with an alpha-2 of their own.
const ADDED: &str = "XKXKX EUEUE UNUNO";

/// Codes of the test values, and of persons without (known) nationality; they have no alpha-2.
const ALPHA_3_ONLY: [&str; 4] = ["XXA", "XXB", "XXC", "XXX"];

/// Alpha-3 code of a country written as alpha-2 or alpha-3 in any ASCII case, or as `D<<`, the
/// German form of the machine-readable zone; `None` if there is no such country.
pub(super) fn alpha_3(text: &str) -> Option<&'static str> {
    let code = text.trim().to_ascii_uppercase();
    if code == "D<<" {
        return Some("DEU");
    }
    let listed = ISO_3166_1
        .split_ascii_whitespace()
        .chain(ADDED.split_ascii_whitespace())
        .map(|row| row.split_at(2))
        .find(|&(alpha_2, alpha_3)| code == alpha_2 || code == alpha_3)
        .map(|(_, alpha_3)| alpha_3);
    listed.or_else(|| ALPHA_3_ONLY.into_iter().find(|&only| code == only))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_249_distinct_rows() {
        let rows: Vec<_> = ISO_3166_1.split_ascii_whitespace().collect();
        assert_eq!(rows.len(), 249);
        assert!(rows.iter().all(|row| row.len() == 5));
        let two: std::collections::BTreeSet<_> = rows.iter().map(|row| &row[..2]).collect();
        let three: std::collections::BTreeSet<_> = rows.iter().map(|row| &row[2..]).collect();
        assert_eq!((two.len(), three.len()), (249, 249));
    }

    #[test]
    fn reads_both_forms_in_any_case() {
        for (text, code) in [
            ("nl", "NLD"),
            (" Nld\u{a0}", "NLD"),
            ("D<<", "DEU"),
            ("d<<", "DEU"),
            ("xk", "XKX"),
            ("EUE", "EUE"),
            ("un", "UNO"),
            ("xxa", "XXA"),
            ("ZW", "ZWE"),
        ] {
            assert_eq!(alpha_3(text), Some(code), "{text}");
        }
    }

    #[test]
    fn knows_no_other_codes() {
        for text in [
            "", "D", "D<", "XX", "XXD", "UK", "GBD", "ＮＬ", "nl de", "AWABW",
        ] {
            assert_eq!(alpha_3(text), None, "{text}");
        }
    }
}
